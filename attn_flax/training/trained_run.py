"""A trained run, ready to be used on other images.

The run folder holds all it takes: the network, its weights, class names and preprocessing.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence, Sized

import jax
import numpy as np

from attn_flax.batching import in_batches
from attn_flax.data import crops, decode
from attn_flax.data.augment.augmentation import Augmentation
from attn_flax.data.image_file import MAX_PIXELS, BadImage
from attn_flax.errors import UserError
from attn_flax.files import read_file
from attn_flax.layers.types import Variables
from attn_flax.models.network import Network
from attn_flax.tasks.names import find_task
from attn_flax.tasks.task import Classes, Outputs, distinct
from attn_flax.training import dataset_file, run_folder
from attn_flax.training.artifacts import File
from attn_flax.training.checkpoints import read_weights
from attn_flax.training.experiment import make_model

BATCH = 32


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """A trained network with its weights and the preprocessing of its images.

  Attributes:
    model: the network.
    classes: how its outputs name a class.
    variables: the weights of the best checkpoint; their moving average where the run kept one.
    class_names: the name of each class; where several classes share a name, with the number of the
      class after it.
    augmentation: `augmentation.evaluate` normalizes images [N, H, W, 3] uint8.
    size: height and width of the network's input in pixels.
    resize: length in pixels of an image's shorter side before the center crop.
    max_pixels: the most pixels that an image file may have, the run's `data.max_pixels`.
  """

  model: Network
  classes: Classes
  variables: Variables
  class_names: Sequence[str]
  augmentation: Augmentation
  size: int
  resize: int
  max_pixels: int = MAX_PIXELS

  def read(self, path: pathlib.Path) -> np.ndarray:
    """Reads an image file as the network sees it: upright, resized, and cropped at the center.

    Returns:
      [size, size, 3] uint8.

    Raises:
      BadImage: where the file cannot be read or decoded.
    """
    return decode.central_crop(
      _content(path), self.size, resize=self.resize, upright=True, max_pixels=self.max_pixels
    )

  def read_whole(
    self, path: pathlib.Path, most: int
  ) -> tuple[np.ndarray, tuple[int, int], crops.Box]:
    """Reads a whole image file, upright, shrunk where a side is longer than `most` pixels.

    Returns:
      Its pixels [h, w, 3] uint8; its original (height, width); and the box that `read` returns, in
      pixels of the original size.

    Raises:
      BadImage: where the file cannot be read or decoded.
    """
    pixels, (height, width) = decode.whole(
      _content(path), most, upright=True, max_pixels=self.max_pixels
    )
    return pixels, (height, width), crops.central_box(width, height, self.size, self.resize)

  def probabilities(self, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """The probability of each class.

    Args:
      images: [N, size, size, 3] uint8, as `read` returns them; N is any number.
      batch: images per forward pass; the last ones are padded to it. None: at most `BATCH`.

    Returns:
      [N, K] float32.
    """
    function = functools.partial(
      _probabilities, self.model, self.augmentation, self.classes.probabilities, self.variables
    )
    batch = batch or max(batch_size(images), 1)
    return in_batches(function, images, batch_size=batch, pad=True)


def _content(path: pathlib.Path) -> bytes:
  try:
    return read_file(path)
  except OSError as error:
    raise BadImage(str(error.strerror)) from None


def open_trained(workdir: pathlib.Path) -> TrainedRun:
  """Opens the network of a run folder; the dataset that it was trained on is not needed.

  Raises:
    UserError: for a folder without a run, with files that are damaged or do not fit together, or
      with a run of a task without classes.
  """
  config = run_folder.load_config(workdir)
  classes = find_task(config.task).classes
  if classes is None:
    raise UserError(
      f'{workdir} was trained for the task {config.task}, which predicts no class for an image; '
      'choose the run of a classifier'
    )
  described = dataset_file.load(workdir)
  class_names = distinct(described['class_names'])
  with run_folder.reading_config(workdir):
    try:
      model = make_model(config.model, len(class_names))
    except UserError as error:
      raise UserError(f'the network of {workdir} cannot be built: {error}') from None
  size, variables = described['image_shape'][0], read_weights(workdir)
  expected = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 3), 'float32'),
  )
  if wrong := _misfits(expected, variables):
    raise UserError(
      f'{File.CONFIG} and {File.DATASET} in {workdir} describe another network than its '
      f'checkpoints hold ({wrong}); restore these files from a copy'
    )
  return TrainedRun(
    model=model,
    classes=classes,
    variables=variables,
    class_names=class_names,
    augmentation=Augmentation(mean=tuple(described['mean']), std=tuple(described['std'])),
    size=size,
    resize=described['resize'],
    max_pixels=config.data.max_pixels,
  )


def _misfits(expected: Variables, found: Variables) -> str:
  """Says in which array two trees of variables first differ in shape; '' where they are alike."""
  shapes = [
    {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
    for leaves in map(jax.tree.leaves_with_path, (dict(expected), dict(found)))
  ]
  for name in sorted(shapes[0].keys() | shapes[1].keys()):
    wanted, there = (tree.get(name, 'none') for tree in shapes)
    if wanted != there:
      return f'{name}: {wanted} expected, {there} found'
  return ''


def batch_size(images: Sized) -> int:
  """Images per forward pass over some images or files: always the same, to compile one program."""
  return min(BATCH, len(images))


@functools.partial(jax.jit, static_argnames=('model', 'augmentation', 'probabilities'))
def _probabilities(
  model: Network,
  augmentation: Augmentation,
  probabilities: Callable[[Outputs], jax.Array],
  variables: Variables,
  images: jax.Array,
) -> jax.Array:
  return probabilities(model.apply(variables, augmentation.evaluate(images), train=False))

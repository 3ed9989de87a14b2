"""A trained run on images of one's own: predictions, by `--mode=predict`.

All it takes is in the run folder: the network, its weights, class names and preprocessing.
"""

import collections
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from attn_flax import runs
from attn_flax.checkpoint import read_best
from attn_flax.data.augment import Augmentation
from attn_flax.data.decode import BadImage, central_crop
from attn_flax.data.folder_layout import may_be_image, natural_key
from attn_flax.errors import UserError
from attn_flax.explain.batches import in_batches
from attn_flax.session import make_model

BATCH = 32


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """A network with its weights and all that its images need.

  Attributes:
    model: the network.
    variables: the weights of the best checkpoint; their moving average where the run kept one.
    class_names: the name of each class; names that several classes share have the class's number
      behind them.
    augmentation: `augmentation.evaluate` normalises images [N, H, W, 3] uint8.
    size: height and width in pixels of what the network takes.
    resize: length in pixels of an image's shorter side before its centre is cut out.
  """

  model: nn.Module
  variables: Any
  class_names: Sequence[str]
  augmentation: Augmentation
  size: int
  resize: int

  def read(self, path: pathlib.Path) -> np.ndarray:
    """An image file as the network sees it, [size, size, 3] uint8.

    Raises:
      BadImage: it cannot be decoded.
    """
    try:
      content = path.read_bytes()
    except OSError as error:
      raise BadImage(str(error.strerror)) from None
    return central_crop(content, self.size, resize=self.resize, upright=True)

  def probabilities(self, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """[N, H, W, 3] uint8 -> probability of each class, [N, K] float32.

    Args:
      images: any number of them.
      batch: images of one pass, to which fewer are filled up; None: at most `BATCH`.
    """
    function = functools.partial(_probabilities, self.model, self.augmentation, self.variables)
    batch = batch or min(BATCH, max(len(images), 1))
    return in_batches(function, images, batch_size=batch, pad=True)


def open_trained(workdir: pathlib.Path) -> TrainedRun:
  """Opens the network of a run folder; the dataset that it was trained on is not needed.

  Raises:
    UserError: for a folder without a run, or one whose checkpoint cannot be read.
  """
  config = runs.load_config(workdir)
  described = runs.read_json(workdir / 'dataset.json')
  class_names = _distinct(described['class_names'])
  return TrainedRun(
    model=make_model(config.model, len(class_names)),
    variables=read_weights(workdir),
    class_names=class_names,
    augmentation=Augmentation(mean=tuple(described['mean']), std=tuple(described['std'])),
    size=described['image_shape'][0],
    resize=described['resize'],
  )


def _distinct(names: Sequence[str]) -> list[str]:
  """Names of classes, with the class's number where several share a name, as ImageNet's 'crane'."""
  counts = collections.Counter(names)
  return [f'{name} ({i})' if counts[name] > 1 else name for i, name in enumerate(names)]


def read_weights(workdir: pathlib.Path) -> dict[str, Any]:
  """The weights of a run's best checkpoint on the device, as `model.apply` takes them.

  Raises:
    UserError: when the folder holds no checkpoint, or it cannot be read.
  """
  return jax.device_put({name: tree for name, tree in read_best(workdir).items() if tree})


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
  """Image files: those named, and those in the folders named and below them, in natural order.

  Raises:
    UserError: for a path that does not exist, or no image at all.
  """
  found: list[pathlib.Path] = []
  for name in paths:
    path = pathlib.Path(name)
    if path.is_dir():
      inside = [p for p in path.rglob('*') if p.is_file() and may_be_image(p.name)]
      found += sorted(inside, key=lambda p: natural_key(str(p)))
    elif path.is_file():
      found.append(path)
    else:
      raise UserError(f'{name} does not exist; name image files or folders in --images')
  if not found:
    raise UserError(f'there is no image in {", ".join(paths) or "--images"}; name one')
  return found


def read_images(
  run: TrainedRun, paths: Sequence[pathlib.Path]
) -> tuple[list[pathlib.Path], np.ndarray, dict[str, str]]:
  """Reads what can be read.

  Returns:
    The files that could be read, their images [N, size, size, 3] uint8, and why others could not.
  """
  good, images, broken = [], [], {}
  for path in paths:
    try:
      images.append(run.read(path))
    except BadImage as error:
      broken[str(path)] = str(error)
    else:
      good.append(path)
  empty = np.zeros((0, run.size, run.size, 3), np.uint8)
  return good, np.stack(images) if images else empty, broken


def batch_size(paths: Sequence[pathlib.Path]) -> int:
  """Images of one pass over some files: one size for all passes, so that each traces once."""
  return min(BATCH, len(paths))


def read_batches(
  run: TrainedRun, paths: Sequence[pathlib.Path]
) -> Iterator[tuple[list[pathlib.Path], np.ndarray, dict[str, str]]]:
  """Yields what `read_images` returns for `batch_size` files at a time, perhaps for none good."""
  size = batch_size(paths)
  for start in range(0, len(paths), size):
    yield read_images(run, paths[start : start + size])


class Answer(NamedTuple):
  """One of the likeliest classes of an image."""

  label: int
  name: str
  probability: float


def predict(
  run: TrainedRun, images: np.ndarray, k: int = 5, batch: int | None = None
) -> list[list[Answer]]:
  """The k likeliest classes of each image, the likeliest first; `batch`: see `probabilities`."""
  probabilities = run.probabilities(images, batch)
  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :k]
  return [
    [Answer(int(label), run.class_names[label], float(row[label])) for label in labels]
    for labels, row in zip(order, probabilities, strict=True)
  ]


def predict_files(
  workdir: pathlib.Path, images: Sequence[str]
) -> Iterator[tuple[pathlib.Path, list[tuple[str, float]]]]:
  """Yields image files with their likeliest classes; says on stderr which cannot be read.

  Raises:
    UserError: for a folder without a run, or when no image can be read.
  """
  run, paths = open_trained(workdir), find_images(images)
  read = 0
  for good, pixels, broken in read_batches(run, paths):
    for name, reason in broken.items():
      print(f'{name} cannot be read and is left out: {reason}', file=sys.stderr)
    if good:
      found = predict(run, pixels, batch=batch_size(paths))
      for path, answers in zip(good, found, strict=True):
        yield path, [(answer.name, answer.probability) for answer in answers]
    read += len(good)
  if not read:
    raise UserError(f'none of the {len(paths)} images can be read')


@functools.partial(jax.jit, static_argnames=('model', 'augmentation'))
def _probabilities(model, augmentation, variables, images):
  return nn.softmax(model.apply(variables, augmentation.evaluate(images), train=False))

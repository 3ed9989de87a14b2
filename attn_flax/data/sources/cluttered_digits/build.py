"""The `tensorflow-datasets` form of cluttered digits, prepared on first use.

Works without TensorFlow and without a network connection: images are given to the library as PNG
bytes, which it stores unchanged, and the records are ArrayRecords, which it reads with NumPy only.
"""

import io
import sys
import tempfile
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from attn_flax.data.sources.cluttered_digits import generate
from attn_flax.data.sources.tfds import storage
from attn_flax.data.sources.tfds.storage import lock as _lock

_DESCRIPTION = """\
One handwritten digit, off-center, among fragments of other digits on real photo texture, with the
digit's visible pixels (`mask`) and their tight box (`bbox`). The splits share neither source
digits nor photo pixels; the classes are balanced. `source` is the digit's index in scikit-learn's
`load_digits`.
"""

_CITATION = """\
@inproceedings{mnih2014recurrent,
  title = {Recurrent Models of Visual Attention},
  author = {Mnih, Volodymyr and Heess, Nicolas and Graves, Alex and Kavukcuoglu, Koray},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2014},
  url = {https://arxiv.org/abs/1406.6247},
}
@misc{alpaydin1998optical,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
}
"""

_LICENSE = """\
Derived from data that ship with scikit-learn (BSD-3-Clause):
* digits: `load_digits`, from "Optical Recognition of Handwritten Digits", E. Alpaydin and
  C. Kaynak, UCI Machine Learning Repository, 1998;
* china.jpg: photo by danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035/,
  CC BY 2.0, https://creativecommons.org/licenses/by/2.0/, cropped and recolored;
* flower.jpg: photo by vultilion, https://www.flickr.com/photos/vultilion/6056698931/,
  CC BY 2.0, https://creativecommons.org/licenses/by/2.0/, cropped and recolored.
"""


class ClutteredDigitsConfig(tfds.core.BuilderConfig):
  """One size and seed; its name, such as '32x32_seed2014', is the folder that it is stored in."""

  def __init__(
    self,
    *,
    size: int = 32,
    seed: int = generate.DEFAULT_SEED,
    num_examples: Mapping[str, int] | None = None,
  ):
    """Names the configuration.

    Args:
      size: height and width in pixels.
      seed: the dataset's seed.
      num_examples: examples of each split; None: `generate.SPLIT_SIZES`.
    """
    self.size = size
    self.seed = seed
    self.num_examples = dict(num_examples or generate.SPLIT_SIZES)
    name = f'{size}x{size}_seed{seed}'
    if self.num_examples != generate.SPLIT_SIZES:
      name += ''.join(f'_{split}{count}' for split, count in self.num_examples.items())
    super().__init__(name=name, description=f'{size} x {size} pixels, dataset seed {seed}.')


class ClutteredDigits(tfds.core.GeneratorBasedBuilder):
  """Builder of cluttered digits; any `ClutteredDigitsConfig` may be passed as `config`."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}
  BUILDER_CONFIGS = [ClutteredDigitsConfig(size=size) for size in generate.DIFFICULTIES]

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    names = [str(digit) for digit in range(generate.NUM_CLASSES)]
    features = {
      'image': tfds.features.Image(shape=(size, size, 3), encoding_format='png'),
      'label': tfds.features.ClassLabel(names=names),
      'mask': tfds.features.Image(shape=(size, size, 1), encoding_format='png'),
      'bbox': tfds.features.BBoxFeature(),
      'source': tfds.features.Scalar(np.int32),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=('image', 'label'),
      # Examples are generated in random order, in which any `train[:100 * n]` is balanced, too.
      disable_shuffling=True,
      homepage='https://arxiv.org/abs/1406.6247',
      citation=_CITATION,
      license=_LICENSE,
    )

  def _split_generators(self, dl_manager: object) -> dict[str, object]:
    return {split: self._generate_examples(split) for split in self.builder_config.num_examples}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, object]]]:
    config = self.builder_config
    count = config.num_examples[split]
    chunks = generate.chunks(split, count, size=config.size, seed=config.seed)
    key = 0
    # `disable=None`: no bar where stderr is not a terminal.
    with tqdm.tqdm(
      total=count, desc=f'{self.name} {split}', unit=' examples', disable=None, leave=False
    ) as bar:
      for chunk in chunks:
        for image, label, mask, bbox, source in zip(*chunk.values(), strict=True):
          example = {
            'image': _png(image),
            'label': int(label),
            'mask': _png(mask[..., 0] * np.uint8(255)),
            'bbox': bbox,
            'source': int(source),
          }
          yield key, example
          key += 1
        bar.update(len(chunk['label']))


def prepare(
  data_dir: str | None = None,
  size: int = 32,
  seed: int = generate.DEFAULT_SEED,
  num_examples: Mapping[str, int] | None = None,
) -> tfds.core.DatasetBuilder:
  """Opens the dataset, and generates it first where it is missing.

  The finished dataset appears in one step, by a rename. Other processes wait for it meanwhile, and
  what a killed one left behind is removed before the next attempt.

  Args:
    data_dir: root folder of the datasets; None: the environment variable TFDS_DATA_DIR, else the
      default of tensorflow-datasets.
    size: height and width in pixels.
    seed: the dataset's seed.
    num_examples: examples of each split, multiples of 10; None: `generate.SPLIT_SIZES`.

  Returns:
    The builder, prepared.

  Raises:
    UserError: an unknown size, a negative seed, numbers of examples that are not multiples of 10, a
      folder that cannot be written to, or a full disk.
  """
  config = ClutteredDigitsConfig(size=size, seed=seed, num_examples=num_examples)
  for split, count in config.num_examples.items():
    generate.chunks(split, count, size=size, seed=seed)  # Only to check the arguments.
  # A configuration that the class lists must be passed by name.
  chosen = config.name if config.name in ClutteredDigits.builder_configs else config
  root = storage.root(data_dir)

  def open_builder() -> tfds.core.DatasetBuilder:
    with storage.quiet():
      return ClutteredDigits(data_dir=root, config=chosen, file_format='array_record')

  builder = open_builder()
  if builder.data_path.exists():
    return builder
  folder = root / ClutteredDigits.name
  with _lock(folder):
    if not builder.data_path.exists():  # Else another process was faster.
      storage.clear_leftovers(folder)
      print(f'Preparing {builder.info.full_name} in {root}, once.', file=sys.stderr)
      with storage.explained(folder):
        _write(builder)
  return open_builder()  # A new builder, as builders read stored metadata only when they are made.


def _write(builder: tfds.core.DatasetBuilder) -> None:
  """Generates and stores the dataset, atomically."""
  folder = builder.data_path.parent
  folder.mkdir(parents=True, exist_ok=True)
  tfds.disable_progress_bar()  # `_generate_examples` has a bar of its own, with a total.
  try:
    # The library needs a folder for downloads, though nothing is downloaded.
    with (
      tempfile.TemporaryDirectory(prefix='incomplete.', dir=folder) as downloads,
      storage.quiet(),
    ):
      builder.download_and_prepare(
        download_dir=downloads,
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
      )
  finally:
    tfds.enable_progress_bar()


def _png(image: np.ndarray) -> bytes:
  """Encodes a uint8 image, [H, W, 3] or [H, W]."""
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format='png')
  return buffer.getvalue()

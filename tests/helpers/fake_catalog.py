"""Datasets of the catalog without their data: real features and metadata, made-up examples."""

import contextlib
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIZES = {'train': 20, 'test': 7}


def encode(pixels, file_format='png', **options):
  """The content of an image file, from [H, W, 3] or [H, W] uint8."""
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, file_format, **options)
  return buffer.getvalue()


class FakeSource:
  """Replaces the result of `as_data_source`; images are encoded and depend only on the index."""

  def __init__(self, features, count, labels=None, shapes=None):
    self.features, self.count = dict(features), count
    self.labels, self.shapes = labels, shapes

  def __len__(self):
    return self.count

  def __getitems__(self, indices):
    return [self.example(index) for index in indices]

  def example(self, index):
    rng = np.random.default_rng(index)
    height, width = rng.integers(30, 70, 2) if self.shapes is None else self.shapes[index]
    return {key: self.value(key, index, rng, height, width) for key in self.features}

  def value(self, key, index, rng, height, width):
    feature = self.features[key]
    if isinstance(feature, tfds.features.Image):
      rows, columns = feature.shape[0] or height, feature.shape[1] or width
      if feature.shape[-1] == 1:  # Gray, or a mask: a rectangle of the largest value.
        pixels = np.full((rows, columns), 2, np.uint8)
        pixels[rows // 4 : rows // 2, columns // 2 :] = 1
        return encode(pixels)
      return encode(rng.integers(0, 256, (rows, columns, 3), np.uint8))
    if isinstance(feature, tfds.features.ClassLabel):
      label = index % feature.num_classes
      return np.int64(label if self.labels is None or key != 'label' else self.labels[index])
    if isinstance(feature, tfds.features.BBoxFeature):
      return np.array([0.25, 0.5, 0.5, 1.0], np.float32)
    return b'text'


def write_metadata(name, folder, sizes=SIZES, file_format='array_record'):
  """Makes a dataset of the catalog look prepared; returns its folder."""
  builder = tfds.builder(name, data_dir=folder, try_gcs=False, file_format=file_format)
  template = tfds.core.ShardedFileTemplate
  splits = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[count],
      num_bytes=count,
      filename_template=template(
        data_dir=builder.data_path,
        dataset_name=builder.name,
        split=split,
        filetype_suffix=file_format,
      ),
    )
    for split, count in sizes.items()
  ]
  builder.info.set_splits(tfds.core.SplitDict(splits))
  builder.data_path.mkdir(parents=True)
  builder.info.write_to_directory(builder.data_path)
  return builder.data_path


@contextlib.contextmanager
def catalog(folder, name, sizes=SIZES, **fields):
  """Mocks `tensorflow-datasets` so that a dataset is prepared and holds made-up examples.

  Yields the list of splits that are opened.
  """
  write_metadata(name, folder, sizes)
  opened = []

  def as_data_source(self, split, decoders):
    images = {
      key for key, kind in dict(self.info.features).items() if isinstance(kind, tfds.features.Image)
    }
    assert set(decoders) == images, 'images are to stay encoded'
    opened.append(split)
    return FakeSource(self.info.features, sizes[split], **fields)

  with tfds.testing.mock_data(data_dir=str(folder), as_data_source_fn=as_data_source):
    yield opened

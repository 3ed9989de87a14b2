"""CIFAR-10 and CIFAR-100, downloaded and prepared without TensorFlow.

The builders are those of `tensorflow-datasets` except for the two steps that need TensorFlow:
unpacking the archive and encoding the images. The result is in the standard folder, with the same
ids, order and pixels, so that the stock builders read it.

Krizhevsky, Learning multiple layers of features from tiny images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import pathlib
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from PIL import Image

from attn_flax.data.sources.tfds import storage
from attn_flax.errors import UserError

_SIDE = 32
_TIMEOUT_S = 20


class _WithoutTensorFlow:
  """The steps in which the builders differ from the stock ones."""

  _cifar_info: Any
  info: tfds.core.DatasetInfo

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, object]:
    facts = self._cifar_info
    _check_reachable(facts.url, pathlib.Path(dl_manager.download_dir))
    archive = pathlib.Path(dl_manager.download(facts.url))
    with tarfile.open(archive) as tar:
      for key, file in zip(facts.label_keys, facts.label_files, strict=True):
        lines = _member(tar, facts.prefix + file).decode().split('\n')
        self.info.features[key].names = [line for line in lines if line]
    return {
      'train': self._records('train_', archive, facts.train_files),
      'test': self._records('test_', archive, facts.test_files),
    }

  def _records(
    self, prefix: str, archive: pathlib.Path, files: Sequence[str]
  ) -> Iterator[tuple[int, dict[str, object]]]:
    """Yields (key, example); the stock builder shuffles by the same keys."""
    facts = self._cifar_info
    num_labels = len(facts.label_keys)
    key = 0
    with tarfile.open(archive) as tar:
      for file in files:
        content = np.frombuffer(_member(tar, facts.prefix + file), np.uint8)
        # A row holds the labels, then the red, the green and the blue pixels.
        for row in content.reshape(-1, num_labels + 3 * _SIDE**2):
          pixels = row[num_labels:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
          labels = zip(facts.label_keys, map(int, row[:num_labels]), strict=True)
          image = Image.fromarray(np.ascontiguousarray(pixels))
          yield key, {'id': f'{prefix}{key:05d}', 'image': image, **dict(labels)}
          key += 1


class Cifar10(  # type: ignore[call-arg]
  _WithoutTensorFlow, tfds.image_classification.Cifar10, skip_registration=True
):
  """CIFAR-10: 50,000 and 10,000 images of 32 x 32 pixels in 10 classes."""

  # The library would look for the checksums next to this file.
  url_infos = tfds.image_classification.Cifar10.url_infos


class Cifar100(  # type: ignore[call-arg]
  _WithoutTensorFlow, tfds.image_classification.Cifar100, skip_registration=True
):
  """CIFAR-100: 50,000 and 10,000 images of 32 x 32 pixels in 100 classes."""

  url_infos = tfds.image_classification.Cifar100.url_infos


BUILDERS: dict[str, type] = {'cifar10': Cifar10, 'cifar100': Cifar100}


def prepare(name: str, root: pathlib.Path) -> None:
  """Downloads and prepares a dataset where it is missing.

  The finished dataset appears in one step, by a rename. Other processes wait for it meanwhile, and
  what a killed one left behind is removed before the next attempt; a finished download is kept in
  the folder `downloads`.

  Args:
    name: a key of `BUILDERS`.
    root: the folder of datasets.

  Raises:
    UserError: no connection, a file other than the published one, a folder that cannot be written
      to, or a full disk.
  """
  folder = root / name
  with storage.lock(folder):
    with storage.quiet():
      builder = BUILDERS[name](data_dir=root, file_format='array_record')
    if builder.data_path.exists():  # Another process was faster.
      return
    storage.clear_leftovers(folder)
    print(f'Downloading and preparing {name} in {root}, once.', file=sys.stderr)
    if not sys.stderr.isatty():
      tfds.disable_progress_bar()
    try:
      with storage.explained(folder), storage.quiet():
        _download_and_prepare(builder, root / 'downloads')
    finally:
      tfds.enable_progress_bar()


def _download_and_prepare(builder: tfds.core.DatasetBuilder, downloads: pathlib.Path) -> None:
  url = builder._cifar_info.url
  try:
    builder.download_and_prepare(
      download_dir=downloads, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  except tfds.download.download_manager.NonMatchingChecksumError as error:
    raise UserError(
      f'the download from {url} is not the published file: its size or checksum differs; run the '
      'command again, or use another network connection'
    ) from error
  except (requests.RequestException, tfds.download.DownloadError) as error:
    raise UserError(f'{url} could not be downloaded ({error}); run the command again') from error


def _check_reachable(url: str, downloads: pathlib.Path) -> None:
  """Raises `UserError` at once for an unreachable URL; the library would retry for minutes."""
  if any(downloads.rglob(f'*{pathlib.PurePath(url).name.split(".")[0]}*')):
    return  # It may be downloaded already, which the library checks.
  try:
    requests.head(url, timeout=_TIMEOUT_S)
  except requests.RequestException as error:
    raise UserError(
      f'{url} cannot be reached ({type(error).__name__}): fix the connection, or put the file '
      f'into {str(downloads / "manual")!r} by other means'
    ) from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
  file = tar.extractfile(name)
  if file is None:
    raise UserError(f'{tar.name!r} has no file {name!r}; remove the archive and download it again')
  return file.read()

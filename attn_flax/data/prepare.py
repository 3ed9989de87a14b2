"""Prepares a dataset of the catalog of `tensorflow-datasets` as ArrayRecord files.

    python -m attn_flax.data.prepare oxford_iiit_pet --data_dir=/data
    python -m attn_flax.data.prepare imagenet2012 --data_dir=/data --manual_dir=/folder/of/archives

Most datasets need TensorFlow for this one step: pip install 'attn_flax[prepare]'. CIFAR-10 and
CIFAR-100 do not. Prepared datasets are read without TensorFlow.
"""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from attn_flax.data import DATASETS, FOLDER
from attn_flax.data.sources.tfds import builders, storage
from attn_flax.errors import UserError


def prepare(
  name: str,
  data_dir: str | None,
  *,
  download_dir: str | None = None,
  manual_dir: str | None = None,
) -> pathlib.Path:
  """Downloads and prepares a dataset where it is missing.

  Args:
    name: a dataset of the catalog, such as 'oxford_iiit_pet' or 'eurosat/rgb'.
    data_dir: root folder of the datasets; None: see `storage.root`.
    download_dir: where downloads are kept; None: `downloads` below the root.
    manual_dir: folder of archives that have to be downloaded by hand, such as ImageNet's.

  Returns:
    The folder of the dataset.

  Raises:
    UserError: the name is unknown or needs no preparation, TensorFlow or an archive is missing,
      a download fails, or the folder holds the dataset in another form, cannot be written to, or is
      on a full disk.
  """
  if name == FOLDER or (name in DATASETS and DATASETS[name].open is not None):
    raise UserError(f'{name!r} needs no preparation: train with --config.data.name={name}')
  root = storage.root(data_dir)
  builder = builders.find_prepared(name, root, tuple(DATASETS))
  if builder is None:
    if name in builders.WITHOUT_TENSORFLOW:
      from attn_flax.data.sources.tfds import cifar  # Imports tensorflow-datasets.

      cifar.prepare(name, root)
    else:
      _prepare_with_tensorflow(name, root, download_dir, manual_dir)
    builder = builders.open_name(name, root)
  builders.check_readable(name, builder)
  return pathlib.Path(builder.data_path)


def _prepare_with_tensorflow(
  name: str, root: pathlib.Path, download_dir: str | None, manual_dir: str | None
) -> None:
  if importlib.util.find_spec('tensorflow') is None:
    raise UserError(
      f"preparing {name!r} needs TensorFlow: pip install 'attn_flax[prepare]', then run this "
      'command again'
    )
  import requests  # With the next, takes a second: errors above come at once.
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=root, try_gcs=False, file_format='array_record')
    folder = root / builder.name
    with storage.lock(folder), storage.explained(folder):
      builder.download_and_prepare(
        download_dir=download_dir or root / 'downloads',
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
      )
  # tensorflow-datasets asserts that archives are there, and imports some packages only here.
  except (
    AssertionError,
    ImportError,
    requests.RequestException,
    tfds.download.DownloadError,
    tfds.download.download_manager.NonMatchingChecksumError,
  ) as error:
    reason = ' '.join(str(error).split())
    raise UserError(
      f'{name!r} could not be prepared ({reason}): fix that and run the command again; archives '
      'that you download by hand belong in --manual_dir'
    ) from error


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code: 0, or 2 for a user's mistake."""
  parser = argparse.ArgumentParser(
    prog='python -m attn_flax.data.prepare',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('name', help='a dataset of the catalog of tensorflow-datasets')
  parser.add_argument('--data_dir', help='root folder of the datasets')
  parser.add_argument('--download_dir', help='where downloads are kept')
  parser.add_argument('--manual_dir', help='folder of archives that you downloaded by hand')
  arguments = parser.parse_args(argv)
  try:
    folder = prepare(
      arguments.name,
      arguments.data_dir,
      download_dir=arguments.download_dir,
      manual_dir=arguments.manual_dir,
    )
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{arguments.name} is ready in {folder}')
  return 0


if __name__ == '__main__':
  sys.exit(main())

"""Prepared datasets of `tensorflow-datasets`, opened by name or folder without TensorFlow."""

import pathlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from attn_flax.data.sources.tfds import storage
from attn_flax.errors import UserError, check_choice, nearest, shown
from attn_flax.files import local_path

if TYPE_CHECKING:  # In functions, as it takes half a second, and folders of images do not need it.
  import tensorflow_datasets as tfds

# `cifar` prepares these without TensorFlow.
WITHOUT_TENSORFLOW = ('cifar10', 'cifar100')
_READABLE = ('array_record', 'parquet')
_NAME = re.compile(r'[A-Za-z_]\w*([/:]|$)')  # How names of the catalog begin.


def command_to_prepare(name: str, root: pathlib.Path) -> str:
  """The command that prepares a dataset in a folder."""
  return f'python -m attn_flax.data.prepare {name} --data_dir={root}'


def open_builder(
  name: str, data_dir: str | None, *, download: bool = False, known: Collection[str] = ()
) -> 'tfds.core.DatasetBuilder':
  """Opens a prepared dataset; on request CIFAR is downloaded and prepared first.

  Args:
    name: a name of the catalog, such as 'cifar10' or 'eurosat/rgb'; or the folder of a prepared
      dataset, which holds its dataset_info.json, as a path that begins with '/', '.' or '~'.
    data_dir: root folder of the datasets; None: see `storage.root`.
    download: whether to download and prepare a missing dataset, if that works without TensorFlow.
    known: further names that an error message lists.

  Raises:
    UserError: an unknown name, a dataset that is missing, or one stored in a form that cannot be
      read.
  """
  if name.startswith(('/', '.', '~')):
    builder = _open_folder(local_path(name, '--config.data.name'))
  else:
    root = storage.root(data_dir)
    builder = find_prepared(name, root, known)
    if builder is None:
      _require_download(name, root, download)
      from attn_flax.data.sources.tfds import cifar  # Imports tensorflow-datasets.

      cifar.prepare(name, root)
      builder = open_name(name, root)
  check_readable(name, builder)
  return builder


def check_readable(name: str, builder: 'tfds.core.DatasetBuilder') -> None:
  """Raises `UserError` if a prepared dataset can only be read with TensorFlow."""
  stored = builder.info.file_format
  if stored is None or stored.value not in _READABLE:
    again = command_to_prepare(name, pathlib.Path('/path/to/another/folder'))
    raise UserError(
      f'{str(builder.data_path)!r} is stored as {stored and stored.value}, which only TensorFlow '
      f'reads: prepare the dataset again, as array_record, with `{again}`, and name that folder '
      'with --config.data.dir'
    )


def find_prepared(
  name: str, root: pathlib.Path, known: Collection[str] = ()
) -> 'tfds.core.DatasetBuilder | None':
  """Opens a dataset that is prepared, in whatever form; returns None if it is not.

  The version that the installed library would prepare is preferred, then the latest one.

  Raises:
    UserError: an unknown name.
  """
  try:
    builder = open_name(name, root, known)
    if is_prepared(builder):
      return builder
  except ModuleNotFoundError:
    pass  # The code that prepares a dataset may need TensorFlow where reading it does not.
  versions = _prepared_versions(root / name)
  return _open_folder(versions[-1]) if versions else None


def open_name(
  name: str, root: pathlib.Path, known: Collection[str] = ()
) -> 'tfds.core.DatasetBuilder':
  """Opens a dataset of the catalog, prepared or not.

  Raises:
    UserError: the name is unknown, or the library cannot open the dataset.
    ModuleNotFoundError: the dataset's code needs TensorFlow.
  """
  local_path(name, '--config.data.name')  # Refuses buckets.
  if not _NAME.match(name):
    raise _unknown(name, known)
  import tensorflow_datasets as tfds

  try:
    with storage.quiet():
      return tfds.builder(name, data_dir=root, try_gcs=False)
  except ModuleNotFoundError:
    raise
  except tfds.core.registered.DatasetNotFoundError:
    raise _unknown(name, known) from None
  # Names may be malformed, and the code of a dataset may raise anything.
  except Exception as error:
    base, _, config = name.split(':')[0].partition('/')
    if config and (forms := tfds.builder_cls(base).builder_configs):
      check_choice(f'form of the dataset {base}', config, forms)
    reason = ' '.join(str(error).split())
    raise UserError(
      f'tensorflow-datasets cannot open {name!r} ({reason}); choose another dataset'
    ) from error


def _unknown(name: str, known: Collection[str]) -> UserError:
  """The error that no dataset has this name; it names the nearest one."""
  import tensorflow_datasets as tfds

  near = nearest(name, known) or nearest(name, tfds.list_builders(with_community_datasets=False))
  hint = f'; did you mean {near[0]!r}?' if near else ';'
  allowed = ', '.join((*known, 'a name of the catalog of tensorflow-datasets'))
  return UserError(
    f'unknown dataset {shown(name)}{hint} allowed: {allowed}, or the path of a prepared dataset'
  )


def _open_folder(folder: pathlib.Path) -> 'tfds.core.DatasetBuilder':
  import tensorflow_datasets as tfds

  if not folder.is_dir():
    raise UserError(f'there is no folder {str(folder)!r}: name that of a prepared dataset')
  if not (folder / 'dataset_info.json').is_file():
    versions = _prepared_versions(folder)
    hint = (
      f'name {str(versions[-1])!r}'
      if versions
      else 'name the folder that holds it; a folder of images is named with '
      f'--config.data.name=folder --config.data.dir={folder}'
    )
    raise UserError(f'{str(folder)!r} holds no dataset_info.json: {hint}')
  with storage.quiet():
    return tfds.builder_from_directory(folder)


def is_prepared(builder: 'tfds.core.DatasetBuilder') -> bool:
  """Whether a dataset's folder is complete, whatever form it is stored in."""
  with storage.quiet():
    return builder.is_prepared()


def _prepared_versions(folder: pathlib.Path) -> list[pathlib.Path]:
  """Folders of the prepared versions below that of a dataset, the newest last."""
  found = [path.parent for path in folder.glob('*.*.*/dataset_info.json')]

  def version(path: pathlib.Path) -> list[int]:
    return [int(part) for part in path.name.split('.') if part.isdigit()]

  return sorted(found, key=version)


def _require_download(name: str, root: pathlib.Path, download: bool) -> None:
  """Raises `UserError` unless a missing dataset may be downloaded, and needs no TensorFlow."""
  if name not in WITHOUT_TENSORFLOW:
    raise UserError(
      f'dataset {name!r} is not in {str(root)!r}: prepare it once with '
      f'`{command_to_prepare(name, root)}` (which needs TensorFlow: '
      "pip install 'attn_flax[prepare]'), "
      'or name another folder with --config.data.dir'
    )
  if not download:
    raise UserError(
      f'dataset {name!r} is not in {str(root)!r}: add --config.data.download=True to download it, '
      'or name another folder with --config.data.dir'
    )

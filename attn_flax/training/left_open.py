"""Chooses what a config leaves open by the dataset: batch size, epochs and stem."""

import pathlib
from typing import Protocol, runtime_checkable

from ml_collections import ConfigDict

from attn_flax.data import FOLDER
from attn_flax.errors import counted
from attn_flax.files import local_path
from attn_flax.models import Network
from attn_flax.models.zoo import find_network
from attn_flax.training import run_folder
from attn_flax.training.artifacts import Json, holds_run
from attn_flax.training.config import Config

_FIELDS = ('model.stem', 'train.batch_size', 'train.epochs')
# The least and the most images of a batch; within these, an epoch has at least so many updates.
_BATCH, _UPDATES_PER_EPOCH = (16, 64), 16
# (updates, fewest epochs, most epochs) of a run from random weights, and of one from trained ones.
_FRESH, _TRAINED = (4000, 30, 200), (800, 10, 50)
# The stem for small images is used where a side has fewer pixels than this many strides of the
# network.
_LEAST_STRIDES = 3
# The stem for small images is suggested where the last feature map has fewer pixels along a side.
_COARSE_MAP = 4
# With fewer training images than this, trained weights are suggested.
_FEW = 5000


@runtime_checkable
class _Stemmed(Protocol):
  """A network with a choice of stems."""

  stem: str


def batch_size(images: int, parts: int = 1) -> int:
  """The batch size for a dataset: a power of two from 16 to 64, by the number of images.

  From 256 images on, an epoch has 16 updates or more; fewer than 16 images make smaller batches.
  The result is rounded up to a multiple of `parts`.

  Args:
    images: number of training images.
    parts: equal parts that a batch is split into, by devices and by `train.accumulate`.
  """
  least, most = _BATCH
  wanted = max(1, min(max(images // _UPDATES_PER_EPOCH, least), most, images))
  return -(-(1 << (wanted.bit_length() - 1)) // parts) * parts


def epochs(updates_per_epoch: int, *, trained: bool) -> int:
  """The number of epochs: enough for 4000 updates, or 800 from trained weights, within bounds.

  Args:
    updates_per_epoch: updates per pass over the training split.
    trained: whether the run starts from trained weights.
  """
  updates, least, most = _TRAINED if trained else _FRESH
  return min(max(-(-updates // max(updates_per_epoch, 1)), least), most)


def as_begun(config: Config, workdir: pathlib.Path) -> Config:
  """Fills what a config leaves open from the run in a folder, if the folder holds one.

  A run that continues, or is scored on other data, keeps the values that it began with.

  Args:
    config: the config of a run.
    workdir: the run folder.

  Raises:
    UserError: where the stored config is damaged.
  """
  if not holds_run(workdir):
    return config
  stored, fields = run_folder.load_config(workdir).to_dict(), config.to_dict()
  for field in _FIELDS:
    section, _, name = field.partition('.')
    is_same = section != 'model' or stored['model'].get('name') == config.model.name
    if fields[section].get(name) is None and is_same:
      fields[section][name] = stored[section].get(name)
  return ConfigDict(fields)


def with_batches(config: Config, images: int, parts: int) -> Config:
  """Chooses `train.batch_size` and `train.epochs` where a config leaves them open.

  Args:
    config: the config of a run.
    images: see `batch_size`.
    parts: see `batch_size`.

  Returns:
    The config with both fields.
  """
  fields = config.to_dict()
  train: Json = fields['train']
  if train['batch_size'] is None:
    train['batch_size'] = batch_size(images, parts)
  if train['epochs'] is None:
    trained = config.init_from is not None
    train['epochs'] = epochs(images // train['batch_size'], trained=trained)
  return ConfigDict(fields)


def with_stem(model: Network, config: Config, size: int) -> Network:
  """Chooses the stem where a config leaves it open: that for small images where these need it.

  Where the run starts from trained weights of the same network, it takes their stem.

  Args:
    model: the network of the config.
    config: the config of the run.
    size: height and width of its images in pixels.

  Returns:
    The network with that stem.
  """
  if config.model.get('stem') is not None or not isinstance(model, _Stemmed):
    return model
  if config.init_from is not None:
    found = _stem_of_run(config.init_from, config.model.name)
    return model if found is None else model.clone(stem=found)
  small = model.clone(stem='cifar')
  is_better = size < _LEAST_STRIDES * model.stride and small.stride < model.stride
  return small if is_better else model


def _stem_of_run(source: str, name: str) -> str | None:
  """The stem of the run in a folder; None if its network has another name, or there is no run."""
  folder = local_path(source, '--config.init_from')
  if not holds_run(folder):
    return None
  model = run_folder.load_config(folder).model
  return model.get('stem') if model.get('name') == name else None


def notes(asked: Config, config: Config, model: Network, images: int) -> list[str]:
  """Lines that say what was chosen, and which flags choose something else.

  Args:
    asked: the config as the user gave it.
    config: the config with everything chosen.
    model: its network.
    images: number of training images.
  """
  lines, train = [], config.train
  # Where `steps` is set, it is the length of the run, and the number of epochs does nothing.
  open_fields = ('batch_size', 'epochs') if train.steps is None else ('batch_size',)
  chosen = [name for name in open_fields if asked.train[name] is None]
  if chosen:
    length = counted(train.epochs, 'epoch') if train.steps is None else f'{train.steps:,} updates'
    fields = ' and '.join(f'--config.train.{name}' for name in chosen)
    lines.append(
      f'{counted(images, "training image")}: batches of {train.batch_size} for '
      f'{length}; {fields} '
      f'{"choose others" if len(chosen) > 1 else "chooses another"}'
    )
  if asked.data.name == FOLDER and images < _FEW and config.init_from is None:
    lines.append(
      f'{images:,} training image{"s are" if images > 1 else " is"} few for training from random '
      'weights; --config.init_from=<run folder or PyTorch file> starts from trained ones'
    )
  own = find_network(config.model.name)
  if isinstance(own, _Stemmed):
    lines += _of_stem(asked, config, model, own.stem)
  return lines


def _of_stem(asked: Config, config: Config, model: Network, usual: str) -> list[str]:
  """The line about the stem, if it was chosen by the images' size or makes the last map coarse.

  `usual` is the stem that a network of this name has by itself.
  """
  size = config.data.size
  if size is None:
    return []
  stride = model.clone(stem=usual).stride
  # Each layer with a stride rounds up.
  side, small, large = (
    -(-size // each) for each in (model.stride, model.clone(stem='cifar').stride, stride)
  )
  if asked.model.get('stem') is None and config.init_from is None and side > large:
    other = f'it has {large}x{large}' if size >= stride else f'images need {stride} pixels or more'
    return [
      f"images of {size} pixels: the stem 'cifar' is taken, so the last feature map has "
      f'{side}x{side} pixels; with --config.model.stem={usual} {other}'
    ]
  if side < _COARSE_MAP and small > side:
    return [
      f'images of {size} pixels end in a feature map of {side}x{side}, so explanations are coarse; '
      f'--config.model.stem=cifar makes it {small}x{small}'
    ]
  return []

"""What a config leaves open and the data decides: the size of a batch, the epochs, the stem."""

import pathlib

from ml_collections import ConfigDict

from attn_flax.data import FOLDER
from attn_flax.files import local_path
from attn_flax.models import Network
from attn_flax.models.placement import field_names
from attn_flax.models.zoo import find_network
from attn_flax.training import run_folder
from attn_flax.training.artifacts import Json
from attn_flax.training.config import Config

_FIELDS = ('model.stem', 'train.batch_size', 'train.epochs')
# A batch has so many images at least and at most, and an epoch so many updates where that allows.
_BATCH, _UPDATES_PER_EPOCH = (16, 64), 16
# A run makes so many updates, within so many epochs: from random weights, and from trained ones.
_FRESH, _TRAINED = (4000, 30, 200), (800, 10, 50)
# Pixels along a side of the last map: below the first a smaller stem is taken, below the second it
# is named.
_LEAST_MAP, _COARSE_MAP = 3, 4
# Training images below which trained weights help most.
_FEW = 5000


def batch_size(images: int, parts: int = 1) -> int:
  """Images per update: a power of two, for 16 updates an epoch or more where images allow it.

  Args:
    images: of the training split.
    parts: equal parts that a batch is split into, over devices and one after the other.
  """
  least, most = _BATCH
  wanted = max(1, min(max(images // _UPDATES_PER_EPOCH, least), most, images))
  return -(-(1 << (wanted.bit_length() - 1)) // parts) * parts


def epochs(updates_per_epoch: int, *, trained: bool) -> int:
  """Passes over the training split; `trained`: whether the run starts from trained weights."""
  updates, least, most = _TRAINED if trained else _FRESH
  return min(max(-(-updates // max(updates_per_epoch, 1)), least), most)


def as_begun(config: Config, workdir: pathlib.Path) -> Config:
  """A config with what it leaves open to the data as the run in a folder has it, if there is one.

  So a run goes on as it began, and scores other data, whatever would be chosen today.

  Raises:
    UserError: when the stored config is damaged.
  """
  if not (workdir / 'config.json').exists():
    return config
  stored, fields = run_folder.load_config(workdir).to_dict(), config.to_dict()
  for field in _FIELDS:
    section, _, name = field.partition('.')
    is_same = section != 'model' or stored['model'].get('name') == config.model.name
    if fields[section].get(name) is None and is_same:
      fields[section][name] = stored[section].get(name)
  return ConfigDict(fields)


def with_batches(config: Config, images: int, parts: int) -> Config:
  """A config with `train.batch_size` and `train.epochs` where it leaves them open.

  Args:
    config: the config of a run.
    images: see `batch_size`.
    parts: likewise.
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
  """A network with the stem of small images where its own would leave next to nothing of them.

  Where the run starts from trained weights, their stem counts.

  Args:
    model: the network of the config.
    config: the config of the run.
    size: height and width of its images in pixels.
  """
  if config.model.get('stem') is not None or 'stem' not in field_names(type(model)):
    return model
  if config.init_from is not None:
    found = _stem_of_run(config.init_from, config.model.name)
    return model if found is None else model.clone(stem=found)
  small = model.clone(stem='cifar')
  is_better = size // model.stride < _LEAST_MAP and small.stride < model.stride
  return small if is_better else model


def _stem_of_run(source: str, name: str) -> str | None:
  """The stem of a run's network of this name; None for another one, and for what is no run."""
  folder = local_path(source, '--config.init_from')
  if not (folder / 'config.json').is_file():
    return None
  model = run_folder.load_config(folder).model
  return model.get('stem') if model.get('name') == name else None


def notes(asked: Config, config: Config, model: Network, images: int) -> list[str]:
  """What was decided, a line each, and what the user might decide otherwise.

  Args:
    asked: the config as the user gave it.
    config: what became of it.
    model: its network.
    images: of the training split.
  """
  lines, train = [], config.train
  if asked.train.batch_size is None or asked.train.epochs is None:
    lines.append(
      f'{images:,} training images: batches of {train.batch_size} for {train.epochs} epochs; '
      '--config.train.batch_size and --config.train.epochs set others'
    )
  if asked.data.name == FOLDER and images < _FEW and config.init_from is None:
    lines.append(
      f'{images:,} training images are few to begin with random weights; '
      '--config.init_from=<run folder or PyTorch file> begins with trained ones'
    )
  if 'stem' in field_names(type(model)):
    lines += _of_stem(asked, config, model)
  return lines


def _of_stem(asked: Config, config: Config, model: Network) -> list[str]:
  """What there is to say of the network's stem for images of this size."""
  size = config.data.size
  if size is None:
    return []
  side, small = size // model.stride, size // model.clone(stem='cifar').stride
  own = find_network(config.model.name)
  large = size // model.clone(stem=getattr(own, 'stem', None)).stride
  if asked.model.get('stem') is None and config.init_from is None and side > large:
    return [
      f"images of {size} pixels: the stem 'cifar' is taken, which leaves a last map of "
      f'{side}x{side}; with --config.model.stem={getattr(own, "stem", None)} it has {large}x{large}'
    ]
  if side < _COARSE_MAP and small > side:
    return [
      f'images of {size} pixels end in a map of {side}x{side}, and explanations are as coarse; '
      f'--config.model.stem=cifar makes it {small}x{small}'
    ]
  return []

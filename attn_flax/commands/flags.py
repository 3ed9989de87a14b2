"""The flags of the command line, and the modes that each belongs to."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from absl import flags

from attn_flax.commands import configs, nearest
from attn_flax.commands.typed import Choice, Paths
from attn_flax.errors import UserError
from attn_flax.files import local_path


class Mode(NamedTuple):
  """The purpose of a mode, and an example of its use."""

  does: str
  example: str


# In the order of the help.
MODES = {
  'train': Mode(
    'Trains the network of a config, or resumes the run in the folder.',
    '--config=eca:resnet18 --config.train.epochs=20',
  ),
  'evaluate': Mode('Scores the best checkpoint of a run again.', '--workdir=runs/eca'),
  'predict': Mode(
    'Prints the likeliest classes of images, or writes them into a CSV file.',
    '--workdir=runs/eca --images=photos/ --output=classes.csv',
  ),
  'explain': Mode(
    'Draws maps of what a network looks at over images, and scores the maps.',
    '--workdir=runs/eca --images=photo.jpg,folder/',
  ),
  'compare': Mode(
    'Trains the runs of a study that are missing, and writes its report.',
    '--config=compare:quick',
  ),
  'import': Mode(
    'Makes a run folder from PyTorch weights.', '--torch=resnet50.pth --workdir=runs/imported'
  ),
  'cost': Mode(
    'Prints parameters and multiply-adds of networks with mechanisms.',
    '--models=resnet50 --attentions=none,se,cbam',
  ),
}


class Flag(NamedTuple):
  """One flag.

  Attributes:
    name: its name.
    default: its value if it is not given, whose type is that of the flag: str, int, bool or tuple.
    text: its help.
    modes: the modes that it belongs to.
    choices: the words that are allowed; (): any.
    kind: the type of a value whose default is None.
    is_path: whether it names files or folders.
    texts: its help in modes where it means something else, by mode.
  """

  name: str
  default: str | int | bool | tuple[str, ...] | None
  text: str
  modes: tuple[str, ...]
  choices: tuple[str, ...] = ()
  kind: type = str
  is_path: bool = False
  texts: Mapping[str, str] = {}


# Flags of these modes: the config, and the run folder, which is named after it by default.
_WITH_CONFIG = ('train', 'evaluate', 'predict', 'explain', 'compare', 'import')
_WITH_FOLDER = _WITH_CONFIG
# Flags that make others useless: the mode, the flag, the others, and the reason.
_DECIDING = (
  *(
    (mode, 'workdir', ('config',), 'the folder holds the config of its run')
    for mode in ('predict', 'explain')
  ),
  ('train', 'coordinator', ('distributed',), 'the processes are named by hand'),
  (
    'cost',
    'published',
    ('models', 'attentions', 'image_size', 'num_classes', 'stride_in'),
    'the file names its networks',
  ),
)
# The modes that several processes can share, and what to do instead in another one.
_SHARED = ('train', 'evaluate')
_ONE_PROCESS = 'leave it out, and start one process'
_SPREAD = 'a study is spread over machines by its runs, such as --config.only=eca/seed1 on one'

FLAGS = (
  Flag(
    'workdir',
    None,
    'Run folder; default: runs/<config>, with a hash of the fields that are set.',
    _WITH_FOLDER,
    is_path=True,
  ),
  Flag('restart', False, 'Remove the run that the folder holds, and begin again.', ('train',)),
  Flag(
    'distributed',
    False,
    'Join the other processes of a pod or cluster, as JAX finds them; see docs/clusters.md.',
    _SHARED,
  ),
  Flag('coordinator', None, 'Address of process 0, <host>:<port>, to join by hand.', _SHARED),
  Flag('num_processes', None, 'Number of processes, to join by hand.', _SHARED, kind=int),
  Flag('process_id', None, 'Number of this process, from 0.', _SHARED, kind=int),
  Flag('join_seconds', 60, 'How many seconds a process waits for the others.', _SHARED),
  Flag('split', 'test', 'Split to score: train, validation or test.', ('evaluate',)),
  Flag(
    'output',
    None,
    'Folder of the results; default: the run folder.',
    ('evaluate', 'predict', 'explain'),
    is_path=True,
    texts={'predict': 'CSV file of the results, instead of printing them.'},
  ),
  Flag('images', None, 'Image files and folders.', ('predict', 'explain'), (), tuple, is_path=True),
  Flag('methods', ('grad_cam', 'own_map'), 'Maps to make.', ('explain',)),
  Flag('stage', None, 'Stage of class activation maps; default: the last.', ('explain',), kind=int),
  Flag(
    'workdirs',
    None,
    'Folders of runs, variants or studies to report on, instead of a study.',
    ('compare',),
    kind=tuple,
    is_path=True,
  ),
  Flag(
    'torch',
    None,
    'PyTorch weights: .pth, .pth.tar, .safetensors or .npz.',
    ('import',),
    is_path=True,
  ),
  Flag('attention_kwargs', '{}', 'JSON: fields that the weights do not show.', ('import',)),
  Flag('models', ('resnet50',), 'Networks to count.', ('cost',)),
  Flag(
    'attentions',
    None,
    'Mechanisms to count, or none for a network without attention; default: all.',
    ('cost',),
    kind=tuple,
  ),
  Flag('image_size', 224, 'Side of the images in pixels.', ('cost',)),
  Flag('num_classes', 1000, 'Number of classes.', ('cost',)),
  Flag(
    'stride_in',
    None,
    'Convolution of a bottleneck that has the stride.',
    ('cost',),
    ('3x3', '1x1'),
  ),
  Flag('published', None, 'CSV file of published costs to compare.', ('cost',), is_path=True),
)
_CONFIG_TEXT = (
  'Config: a file such as configs/eca.py, or the name of a built-in one such as eca. Words after a '
  'colon choose a network, a dataset and a recipe; --config.<field>=<value> sets a field.'
)


def define(argv: Sequence[str]) -> flags.FlagValues:
  """Defines the flags on new `FlagValues`, so that a process can run several command lines."""
  values = flags.FlagValues()
  configs.define(values, _CONFIG_TEXT, argv)
  _define_choice(values, 'mode', 'train', tuple(MODES), 'What to do.')
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', flag_values=values)
  for name in ('helpfull', 'helpshort'):  # As in other programs that use absl.
    flags.DEFINE_alias(name, 'help', flag_values=values)
  for flag in FLAGS:
    name, default, text = flag.name, flag.default, flag.text
    kind = flag.kind if default is None else type(default)
    if flag.choices:
      _define_choice(values, name, None, flag.choices, text)
    elif kind is tuple:
      listed = list(default) if isinstance(default, tuple) else None
      parser = Paths() if flag.is_path else flags.ListParser()
      flags.DEFINE(parser, name, listed, text, values, flags.ListSerializer(','))
    elif kind is bool:
      flags.DEFINE_bool(name, bool(default), text, flag_values=values)
    elif kind is int:
      flags.DEFINE_integer(name, default, text, flag_values=values)  # type: ignore[arg-type]
    else:
      flags.DEFINE_string(name, default, text, flag_values=values)  # type: ignore[arg-type]
  return values


def _define_choice(
  values: flags.FlagValues, name: str, default: str | None, choices: tuple[str, ...], text: str
) -> None:
  flags.DEFINE(Choice(name, choices), name, default, text, values, flags.ArgumentSerializer())


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
  """Reads a command line into its flags.

  Raises:
    UserError: an unknown flag or word; the message says what was most likely meant.
  """
  unknown = None
  try:
    words = values(list(argv))[1:]
  except flags.UnrecognizedFlagError as error:
    unknown, words = error, [str(error.flagvalue)]  # All of the word.
  if not words:
    return
  word = words[0]
  mode, config = values['mode'].value, values['config'].value or configs.load('base')
  own = ['mode', 'help', 'config', *(flag.name for flag in FLAGS if mode in flag.modes)]
  names = configs.built_in_names()
  if unknown is None:
    raise nearest.of_word(word, MODES, own, config, names)
  after = argv[argv.index(word) + 1 :] if '=' not in word and word in argv else []
  value = word.partition('=')[2] or next((text for text in after[:1] if text[:1] != '-'), '')
  raise nearest.of_flag(unknown.flagname, value, own, config, names)


def check_mode(values: flags.FlagValues) -> None:
  """Raises `UserError` for a flag that was given but does nothing.

  It belongs to another mode, is empty, or is made useless by another flag.
  """
  mode = values.mode
  if values['config'].present and mode not in _WITH_CONFIG:
    raise UserError(f'--config does nothing in --mode={mode}; it belongs to the other modes')
  for flag in FLAGS:
    if values[flag.name].present and mode not in flag.modes:
      fix = f'; {_SPREAD if mode == "compare" else _ONE_PROCESS}' if flag.modes is _SHARED else ''
      raise UserError(
        f'--{flag.name} does nothing in --mode={mode}; it belongs to {_modes(flag.modes)}{fix}'
      )
    value = values[flag.name].value
    names = value if isinstance(value, list) else [str(value)]
    if not names or not all(name.strip() for name in names):
      raise UserError(f'--{flag.name} is empty, or holds an empty name; name one, or leave it out')
  for of, deciding, others, reason in _DECIDING:
    for other in others:
      if mode == of and values[deciding].present and values[other].present:
        raise UserError(
          f'--{other} does nothing together with --{deciding}: {reason}; leave one of the two out'
        )


def expand_paths(values: flags.FlagValues) -> None:
  """Expands `~` in flags that are paths; raises `UserError` for one not of the file system."""
  for flag in FLAGS:
    value = values[flag.name].value
    if flag.is_path and value is not None:
      names = value if isinstance(value, list) else [value]
      paths = [str(local_path(name, f'--{flag.name}')) for name in names]
      values[flag.name].value = paths if isinstance(value, list) else paths[0]


def _modes(names: Sequence[str]) -> str:
  return ' and '.join(f'--mode={name}' for name in names)


def program() -> str:
  """How printed commands begin: like the command of this process."""
  name = pathlib.Path(sys.argv[0]).name
  return name if name == 'attn_flax' else 'python main.py'


def help_text(mode: str | None) -> str:
  """The help: of one mode, or of all, each with its flags and an example.

  Args:
    mode: one of `MODES`; None: all of them.
  """
  lines = [f'{program()} [--mode=<mode>] [flags]', '']
  if mode != 'cost':
    lines += ['in every mode but cost', _line('config', _CONFIG_TEXT)]
    lines += [_line(flag.name, _described(flag)) for flag in FLAGS if flag.modes == _WITH_FOLDER]
    lines.append('')
  for name, about in MODES.items():
    if mode in (None, name):
      lines += [
        f'--mode={name}' + ('  (the default)' if name == 'train' else ''),
        f'  {about.does}',
      ]
      own = [flag for flag in FLAGS if name in flag.modes and flag.modes != _WITH_FOLDER]
      lines += [_line(flag.name, _described(flag, name)) for flag in own]
      lines += [f'  example: {program()} --mode={name} {about.example}', '']
  if mode is None:
    lines.append('--mode=<mode> --help shows one mode.')
  if mode in (None, 'train'):
    lines.append('--mode=train --help --config=eca lists the fields of a config.')
  return '\n'.join(lines)


def _described(flag: Flag, mode: str = '') -> str:
  default = ','.join(flag.default) if isinstance(flag.default, tuple) else flag.default
  choices = f' One of {", ".join(flag.choices)}.' if flag.choices else ''
  text = flag.texts.get(mode, flag.text)
  return text + choices + (f' Default: {default}.' if default not in (None, False) else '')


def _line(name: str, text: str, width: int = 100) -> str:
  """A flag and its help, wrapped behind its name."""
  lines, indent = [f'    --{name}'.ljust(24)], ' ' * 24
  for word in text.split():
    if len(lines[-1]) + len(word) >= width:
      lines.append(indent)
    lines[-1] += word + ' '
  return '\n'.join(line.rstrip() for line in lines)

"""Command lines with random values: each runs, or ends in one line that names the field.

A run is stopped where its folder would be made: its network, pipelines and training step are traced
by then, and nothing is computed.
"""

import importlib
import json
import pathlib
import re
import shutil
import sys
import tarfile

import drawn
import numpy as np
import pytest
import tiny_torch
from hypothesis import strategies as st
from ml_collections import ConfigDict

from attn_flax.attention import ATTENTION
from attn_flax.commands import command_line
from attn_flax.models import create_model
from attn_flax.models.placement import field_names

FROZEN = pathlib.Path(__file__).parents[1] / 'frozen' / 'run.tar.gz'
SECONDS = 60  # For one command; the slowest ones trace a hundred blocks.
# Configs whose fields get random values, and the number of values of each field: all fields of the
# baseline and of the study, and those of the mechanism of each other config.
CONFIGS = {
  'resnet:smoke': 3,
  **{
    f'{name}:smoke': 2
    for name in (
      *('aa', 'additive', 'bam', 'cbam', 'dual', 'eca', 'non_local', 'sasa', 'sca', 'se'),
      'dot_product_additive',  # A hybrid.
    )
  },
  'compare:smoke': 1,
}
# One network of each family, with fields of its own.
FAMILIES = ('resnet20', 'resnet50', 'mnasnet_a1', 'vit_tiny32')
# Fields of the JSON of --attention_kwargs.
KWARGS = ('ratio', 'bias', 'divisor', 'stages', 'every', 'pools')
# Other words by which an error may name a field.
OTHERWISE = {
  'name': ('model', 'network', 'attention', 'dataset', 'optimizer', 'field of'),
  'dir': ('folder',),
  'select': ('variant',),
  'models': ('model',),
  'attentions': ('attention',),
  'torch': ('PyTorch',),
  'image_size': ('images of',),
  'attention_kwargs': KWARGS,
}
# For each mode, the words that a command needs, and the flags that get random values.
FLAGS = {
  'cost': (
    ('--models=resnet20', '--attentions=se'),
    ('models', 'attentions', 'image_size', 'num_classes', 'stride_in', 'published'),
  ),
  'train': (
    ('--config=eca:smoke',),
    (
      'workdir',
      'restart',
      'distributed',
      'coordinator',
      'num_processes',
      'process_id',
      'join_seconds',
      'config',
    ),
  ),
  'evaluate': (('--workdir=run',), ('workdir', 'split', 'output', 'config')),
  'predict': (('--workdir=run', '--images=image.png'), ('workdir', 'images', 'config')),
  'explain': (
    ('--workdir=run', '--images=image.png'),
    ('workdir', 'images', 'methods', 'stage', 'output'),
  ),
  'compare': (('--config=compare:smoke',), ('workdir', 'workdirs', 'config')),
  'import': (
    ('--torch=weights.npz', '--workdir=imported'),
    ('torch', 'attention_kwargs', 'workdir', 'config'),
  ),
}
PER_FLAG = 4


class Started(BaseException):
  """Raised when a command has passed all checks; no `except Exception` may catch it."""


def start(*args, **kwargs):
  raise Started


def leaves(config, prefix=''):
  """(path, type) of each field, including those of attention entries and variants."""
  for name in config:
    value = config[name]
    if isinstance(value, ConfigDict):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', config.get_type(name)


def fields_of(name):
  return list(leaves(load(name)))


def load(name):
  module, _, argument = name.partition(':')
  return importlib.import_module(f'configs.{module}').get_config(argument)


def words_of(kind):
  likely = drawn.WORDS_OF.get(kind, drawn.WORDS)
  return (
    st.sampled_from((drawn.WORDS, likely, likely)).flatmap(lambda words: words).map(drawn.harmless)
  )


def drawn_fields(group):
  """Commands that set a field or two of the configs of a group."""
  found = []
  for name, count in CONFIGS.items():
    fields = fields_of(name)
    for field, kind in fields:
      if group_of(name, field) != group:
        continue
      configs = st.sampled_from(families_with(field) if group == 'model' else (name,))
      one = st.tuples(configs, words_of(kind))
      other = st.one_of(
        st.none(),
        st.none(),
        st.sampled_from(fields).flatmap(lambda f: st.tuples(st.just(f[0]), words_of(f[1]))),
      )
      for (config, word), second in drawn.examples(f'{name} {field}', st.tuples(one, other), count):
        sets = {field: word} | ({} if second is None else dict([second]))
        command = [
          f'--config={config}',
          *(f'--config.{key}={value}' for key, value in sets.items()),
        ]
        found.append((command + ['--mode=compare'] * name.startswith('compare'), list(sets)))
  return found


def families_with(field):
  """The baseline's config with each network that has a field."""
  leaf = field.rpartition('.')[2]
  found = [name for name in FAMILIES if leaf in field_names(type(create_model(name)))]
  return [f'resnet:smoke,{name}' for name in found or FAMILIES]


def mechanisms():
  """The mechanisms of the configs."""
  configs = [load(name) for name in CONFIGS if not name.startswith('compare')]
  return {entry.name for config in configs for entry in config.model.attention.values()}


def group_of(name, field):
  """The group of tests of a field: its section, or its mechanism; None: it is not tested."""
  if name.startswith('compare'):
    return 'study'
  if '.attention.' in field:
    return 'attention'
  return (field.partition('.')[0] if '.' in field else 'run') if name == 'resnet:smoke' else None


def drawn_flags(mode):
  """Commands that set a flag or two of a mode."""
  usual, flags = FLAGS[mode]
  found = []
  for flag in flags:
    kinds = {
      'image_size': int,
      'num_classes': int,
      'stage': int,
      'process_id': int,
      'join_seconds': int,
    }
    kind = {'num_processes': int, 'restart': bool, 'distributed': bool}.get(
      flag, kinds.get(flag, str)
    )
    word = words_of(kind)
    if flag == 'attention_kwargs':
      names = st.sampled_from(KWARGS)
      values = drawn.VALUES.filter(is_json)
      word = st.one_of(word, st.dictionaries(names, values, max_size=2).map(json.dumps))
    second = st.one_of(st.none(), st.tuples(st.sampled_from(flags), words_of(str)))
    for value, other in drawn.examples(f'{mode} {flag}', st.tuples(word, second), PER_FLAG):
      sets = {flag: value} | ({} if other is None else dict([other]))
      named = {f'--{key}' for key in sets}
      command = [word for word in usual if word.partition('=')[0] not in named]
      command += [f'--{key}={value}' for key, value in sets.items()]
      found.append(([f'--mode={mode}', *command], list(sets)))
  return found


def is_json(value):
  try:
    json.dumps(value)
  except (TypeError, ValueError):
    return False
  return True


@pytest.fixture(scope='module')
def place(small_dataset, tmp_path_factory):
  """A folder with a run, an image and PyTorch weights, where nothing is trained or computed."""
  from PIL import Image

  from attn_flax.commands import evaluate, import_torch
  from attn_flax.data.sources.tfds import cifar
  from attn_flax.study import train as study
  from attn_flax.training import loop, trained_run
  from attn_flax.training.distributed import joining

  folder = tmp_path_factory.mktemp('place')
  with tarfile.open(FROZEN) as archive:
    archive.extractall(folder, filter='data')
  Image.new('RGB', (40, 40), 'red').save(folder / 'image.png')
  np.savez(folder / 'weights.npz', **tiny_torch.weights())
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setattr(sys, 'path', [*sys.path])
    patch.setattr(loop, '_open_folder', trace)
    patch.setattr(study, 'train_missing', start)
    patch.setattr(evaluate, 'Scorer', start)
    patch.setattr(import_torch, 'locked', start)
    patch.setattr(trained_run.TrainedRun, 'probabilities', start)
    patch.setattr(joining, '_filter_outputs', lambda: None)
    patch.setattr('jax.distributed.initialize', start)
    patch.setattr(cifar, 'prepare', start)  # It would download.
    yield folder


def trace(experiment, workdir, restart, stack):
  """Traces a training step and an evaluation step, instead of opening the run folder."""
  import jax

  from attn_flax.training.steps import make_eval_step
  from attn_flax.training.updates import training_step

  state, pipeline = experiment.abstract_state(), experiment.train_pipeline()
  step, inputs = training_step(experiment, pipeline), pipeline.abstract_batch()
  jax.eval_shape(step, state, pipeline.constants, inputs, jax.random.key(0))
  experiment.eval_pipeline('validation')
  size = experiment.augmentation.size or experiment.image_shape[:2]
  images = jax.ShapeDtypeStruct((2, *size, 3), 'float32')
  batch = {'image': images, 'label': jax.ShapeDtypeStruct((2,), 'int32')}
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  jax.eval_shape(make_eval_step(experiment.model, experiment.task), variables, batch)
  raise Started


def fault(command, named, folder, capsys):
  """What is wrong with the end of a command, '' if nothing; and how it ended."""
  before = set(folder.iterdir())
  try:
    with drawn.deadline(SECONDS):
      code = command_line.run(['main.py', *command])
  except Started:
    code = 0
  except drawn.Overdue as overdue:
    return f'{overdue}', 'overdue'
  except BaseException as error:
    return f'{type(error).__name__}: {error}', 'traceback'
  finally:
    left = {path.name for path in folder.iterdir() if path not in before}
    lines = capsys.readouterr().err.splitlines()
    # The run of another version has no digests, which is said before what is wrong.
    lines = [line for line in lines if not re.match('Preparing |warning: .* digests;', line)]
    for name in left:
      path = folder / name
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  if code == 0:
    wild = [word for word in command if word.startswith('--config.') and not drawn.is_finite(word)]
    return (f'{wild} accepted' if wild else ''), 'accepted'
  if code != 2 or len(lines) != 1 or not lines[0].startswith('error: '):
    return f'code {code} and {lines}', 'refused'
  leaves_named = [field.rpartition('.')[2] for field in named]
  words = [(leaf, *OTHERWISE.get(leaf, ())) for leaf in leaves_named]
  if not any(word in lines[0] for words_of_field in words for word in words_of_field):
    return f'none of {words} in {lines[0]!r}', 'refused'
  expected = any(field.endswith('data.dir') or field == 'output' for field in named)
  return (f'{left} left behind' if left and not expected else ''), 'refused'


def assert_answered(commands, place, capsys):
  answers = [
    (repr(' '.join(command)), *fault(command, named, place, capsys)) for command, named in commands
  ]
  assert drawn.answered(answers, 'commands', capsys)['refused']


GROUPS = (
  'attention',
  'augment',
  'checkpoint',
  'data',
  'eval',
  'model',
  'optimizer',
  'run',
  'study',
)
GROUPS += ('train',)


@pytest.mark.slow
@pytest.mark.parametrize('group', GROUPS)
def test_drawn_fields(group, place, capsys):
  assert_answered(drawn_fields(group), place, capsys)


@pytest.mark.slow
@pytest.mark.parametrize('mode', FLAGS)
def test_drawn_flags(mode, place, capsys):
  assert_answered(drawn_flags(mode), place, capsys)


@pytest.mark.slow
def test_enough_is_drawn():
  """Every field of the configs and every flag is tested, with enough values in all."""
  from attn_flax.commands.flags import FLAGS as ALL

  fields = [command for group in GROUPS for command in drawn_fields(group)]
  flags = [command for mode in FLAGS for command in drawn_flags(mode)]
  assert len(fields) + len(flags) >= 500
  named = {name for _, names in fields for name in names}
  assert named >= {field for name in CONFIGS for field, _ in fields_of(name)}
  assert mechanisms() == ATTENTION.keys()
  assert {name for _, names in flags for name in names} >= {flag.name for flag in ALL}

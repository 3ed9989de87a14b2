"""The listings of the README run."""

import csv
import pathlib
import re

import pytest

README_PATH = pathlib.Path(__file__).parents[1] / 'README.md'
README = README_PATH.read_text()


def _listing(containing):
  listings = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  return next(listing for listing in listings if containing in listing)


def test_the_faults_are_those_of_the_benchmark():
  (table,) = (README_PATH.parent / 'benchmarks' / 'results').glob('faults-*.csv')
  with table.open() as file:
    rows = [tuple(row.values()) for row in csv.DictReader(file)]
  section = README[README.index('### Faults') :]
  section = section[: section.index('### Devices')]
  found = re.findall(r'^\| (.*?) \| ([\d,]+) \| ([\d,]+) \| (\d+) \|$', section, re.MULTILINE)
  assert rows == [
    (what, tries.replace(',', ''), survived.replace(',', ''), lost)
    for what, tries, survived, lost in found
  ]
  assert {lost for *_, lost in rows} == {'0'}


@pytest.mark.slow
def test_the_library_in_a_few_lines():
  namespace = {}
  exec(_listing('count_macs'), namespace)
  assert namespace['logits'].shape == (1, 1000)
  assert namespace['attn_flax'].count_params(namespace['variables']) == 28_089_624
  assert namespace['attn_flax'].count_macs(namespace['model'], (224, 224, 3)) == 4_095_573_110
  assert '# 28089624' in README and '# 4095573110' in README


def test_a_mechanism_of_ones_own_trains():
  import jax
  import jax.numpy as jnp
  import optax

  from attn_flax import count_macs
  from attn_flax.tasks.names import find_task
  from attn_flax.training.steps import init_state, make_train_step

  namespace = {}
  exec(_listing('class MeanGate'), namespace)
  model = namespace['model'].clone(depths=(1, 1, 1), widths=(4, 8, 16))
  plain = model.clone(attention=())
  assert count_macs(model, (16, 16, 3)) > count_macs(plain, (16, 16, 3))
  optimizer = optax.sgd(0.1)
  state = init_state(model, optimizer, jax.random.key(0), (16, 16, 3), ema=False)
  batch = {'image': jnp.ones((2, 16, 16, 3)), 'label': jnp.array([0, 1])}
  _, metrics = jax.jit(
    make_train_step(model, optimizer, lambda _: 0.1, find_task('classification'))
  )(state, batch, jax.random.key(1))
  assert jnp.isfinite(metrics['loss'])
  assert 'branch_attention' in str(state.params)


def test_two_places():
  namespace = {'attn_flax': __import__('attn_flax')}
  exec(_listing("'stage': {'name': 'bam'"), namespace)
  assert {p.where for p in namespace['model'].attention} == {'branch', 'stage'}


@pytest.mark.slow
def test_explanations_in_a_few_lines():
  import functools

  import jax
  import numpy as np

  from attn_flax import create_model, explain

  rng = np.random.default_rng(0)
  images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
  model = create_model(
    'resnet20',
    depths=(1, 1, 1),
    widths=(8, 8, 8),
    num_classes=3,
    attention='aa',
    attention_kwargs={'heads': 2, 'kappa': 0.5, 'upsilon': 0.5},
  )
  vit = create_model('vit_tiny32', patch=8, width=8, depth=2, heads=2, mlp_width=16, num_classes=3)
  variables, vit_variables = (
    network.init(jax.random.key(0), images, train=False) for network in (model, vit)
  )
  labels = np.array([0, 2], np.int32)
  namespace = {
    'model': model,
    'variables': variables,
    'vit': vit,
    'vit_variables': vit_variables,
    'images': images,
    'labels': labels,
    'maps': rng.random((2, 4, 4)).astype(np.float32),
    'masks': rng.random((2, 16, 16)) < 0.5,
    'function': functools.partial(explain.grad_cam, model, variables),
    'all_images': images,
    'all_labels': labels,
  }
  exec(_listing('explain.grad_cam'), namespace)


def test_no_line_of_prose_is_long():
  """Except in tables, commands and the generated example."""
  prose = README.partition('<!-- example -->')[0] + README.partition('<!-- end of the example')[2]
  lines = [line for line in prose.splitlines() if line[:1] not in ('|', ' ')]
  assert len(lines) > 200 and [line for line in lines if len(line) > 100] == []

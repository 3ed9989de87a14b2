"""Flags and fields that would do nothing: one line that says what to leave out, exit code 2."""

import pathlib

import answers
import pytest

from attn_flax.commands import command_line, flags

ROOT = pathlib.Path(__file__).parents[2]
RUN = '--workdir=runs/x'
PUBLISHED = f'--published={ROOT}/tests/data/published_costs.csv'
WEIGHTS = ('--mode=import', '--torch=x.npz', RUN)

# Command lines, and a part of the error of each.
BESIDE = {
  **{
    (f'--mode={mode}', RUN, '--config=eca'): '--config does nothing together with --workdir'
    for mode in ('predict', 'explain')
  },
  ('--config=eca', '--distributed', '--coordinator=a:1'): (
    '--distributed does nothing together with --coordinator'
  ),
  **{
    ('--mode=cost', PUBLISHED, flag): (
      f'{flag.partition("=")[0]} does nothing together with --published'
    )
    for flag in (
      '--models=resnet18',
      '--attentions=eca',
      '--image_size=224',
      '--num_classes=1000',
      '--stride_in=1x1',
    )
  },
  ('--mode=compare', '--workdirs=a', '--config=compare', '--config.seeds=1,2'): (
    '--config.seeds does nothing together with --workdirs'
  ),
  ('--mode=compare', '--workdirs=a', '--config=compare', '--config.base.seed=3'): (
    '--config.base.seed does nothing together with --workdirs'
  ),
  (*WEIGHTS, '--config=eca', '--config.model.name=resnet50'): (
    '--config.model.name does nothing in --mode=import'
  ),
  (*WEIGHTS, '--config=eca', '--config.model.attention.branch.gamma=1.0'): (
    '--config.model.attention.branch.gamma does nothing in --mode=import'
  ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path):
  with answers.nothing_written(tmp_path):
    yield


@pytest.mark.parametrize(('words', 'message'), BESIDE.items(), ids=lambda value: str(value)[:80])
def test_a_flag_that_another_one_overrules_is_refused(words, message, capsys):
  line = answers.error_of(capsys, *words)
  assert message in line
  assert 'leave one of the two out' in line or 'leave it out' in line


@pytest.mark.parametrize(
  ('mode', 'flag'),
  [
    (mode, flag)
    for flag in flags.FLAGS
    for mode in flag.modes
    if not isinstance(flag.default, bool | int) and flag.kind is not int and not flag.choices
  ],
  ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_an_empty_flag_is_refused(mode, flag, capsys):
  lists = isinstance(flag.default, tuple) or flag.kind is tuple
  for value in ('', ',', 'a,', 'a,,b', ' ,a') if lists else ('',):
    line = answers.error_of(capsys, f'--mode={mode}', f'--{flag.name}={value}')
    assert f'--{flag.name} is empty, or holds an empty name' in line


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['--attentions=eca,foo'], "unknown attention 'foo'"),
    (['--models=resnet20,resnet21', '--attentions=none'], "unknown model 'resnet21'"),
    (['--models=resnet18', '--stride_in=1x1'], '--stride_in does nothing without bottlenecks'),
    (
      ['--models=vit_ti16,resnet18', '--stride_in=3x3'],
      'such as in vit_ti16, resnet18; leave it out',
    ),
  ],
)
def test_costs_of_what_nobody_knows_are_refused(words, message, capsys):
  assert message in answers.error_of(capsys, '--mode=cost', *words)


def test_a_mechanism_that_a_network_does_not_take_is_a_row(capsys):
  words = ['--models=vit_tiny32,resnet20', '--attentions=none,eca', '--image_size=32']
  assert command_line.run(['main.py', '--mode=cost', *words]) == 0
  rows = capsys.readouterr().out.splitlines()
  assert len(rows) == 5 and 'takes no attention' in rows[-1]


@pytest.mark.parametrize('text', ['[]', 'null', '3', '{'])
def test_fields_that_are_no_mapping_are_refused(text, capsys):
  line = answers.error_of(capsys, *WEIGHTS, f'--attention_kwargs={text}')
  assert 'is not a mapping in JSON' in line


def test_a_study_is_not_imported(capsys):
  assert 'this is a study of many' in answers.error_of(capsys, *WEIGHTS, '--config=compare')

"""Flags, help and configs by name; each mode has a test file of its own."""

import pathlib
import runpy
import signal
import sys

import pytest

from attn_flax.commands import command_line, config_help, configs, entry
from attn_flax.commands.flags import FLAGS, MODES, define
from attn_flax.models.create import PLACEMENT_FIELDS
from attn_flax.training import allocator, stopping

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
  return command_line.run(['main.py', *map(str, arguments)])


def given(flag):
  """A flag on a command line, with a value that it accepts."""
  kind = flag.kind if flag.default is None else type(flag.default)
  value = {bool: 'True', int: '3'}.get(kind, flag.choices[0] if flag.choices else 'x')
  return f'--{flag.name}={value}'


@pytest.mark.parametrize(
  ('mode', 'flag'),
  [(mode, flag) for mode in MODES for flag in FLAGS if mode not in flag.modes],
  ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_flag_of_another_mode_is_refused(mode, flag, capsys):
  """The error names the modes that the flag belongs to."""
  assert run(f'--mode={mode}', given(flag)) == 2
  out, err = capsys.readouterr()
  assert not out and err.count('\n') == 1
  assert f'--{flag.name} does nothing in --mode={mode}' in err
  for name in flag.modes:
    assert f'--mode={name}' in err


def test_counting_takes_no_config(capsys):
  assert run('--mode=cost', f'--config={ROOT}/configs/eca.py') == 2
  assert '--config does nothing in --mode=cost' in capsys.readouterr().err


def test_the_help_shows_every_mode_with_its_flags_and_an_example(capsys):
  assert run('--help') == 0
  shown = capsys.readouterr().out
  for name, mode in MODES.items():
    assert f'--mode={name}' in shown and mode.does in shown
    assert f'example: python main.py --mode={name} {mode.example}' in shown
  for flag in FLAGS:
    assert f'    --{flag.name} ' in shown
  assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize('mode', MODES)
def test_the_help_of_a_mode_shows_its_flags_alone(mode, capsys):
  assert run(f'--mode={mode}', '--help') == 0
  shown = capsys.readouterr().out
  for flag in FLAGS:
    assert (f'    --{flag.name} ' in shown) == (mode in flag.modes)


@pytest.mark.parametrize('mode', MODES)
def test_the_examples_of_the_help_are_commands(mode):
  values = define(['main.py'])
  words = [w for w in MODES[mode].example.split() if not w.startswith('--config')]
  assert values(['main.py', f'--mode={mode}', *words]) == ['main.py']


def test_the_fields_of_a_config_are_explained(capsys):
  """Fields of the base config by its comments, those of a mechanism by its docstring."""
  assert run('--mode=train', '--help', '--config=cbam') == 0
  shown = capsys.readouterr().out
  assert '--config.train.epochs=8\n    Passes over the training split; none: ' in shown
  assert '--config.model.attention.branch.ratio=4\n    channels per hidden unit' in shown
  lines = shown.partition('The fields of this config:')[2].strip().splitlines()
  unexplained = [
    line
    for line, after in zip(lines, [*lines[1:], '--'], strict=True)
    if line.startswith('--') and after.startswith('--')
  ]
  assert unexplained == []


def test_the_help_explains_each_field_of_every_entry_of_the_attention_mapping():
  assert tuple(config_help.OF_EVERY_ENTRY) == PLACEMENT_FIELDS


def test_built_in_configs_have_names():
  path = ROOT / 'configs' / 'eca.py'
  assert configs.find('eca') == configs.find(str(path)) == path
  assert configs.load('eca').model.attention.branch.name == 'eca'


@pytest.mark.parametrize('flag', ['--config=eca:smoke', '--config eca:smoke'])
def test_a_config_is_named_on_the_command_line(flag, capsys):
  assert run('--mode=train', '--help', *flag.split()) == 0
  assert '--config.train.steps=20' in capsys.readouterr().out


def test_configs_are_found_where_no_checkout_is(monkeypatch, tmp_path):
  """As with a wheel: a user's own file may import a built-in one."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p not in ('', '.', str(ROOT))])
  for name in [name for name in sys.modules if name.partition('.')[0] == 'configs']:
    monkeypatch.delitem(sys.modules, name)
  (tmp_path / 'mine.py').write_text(
    'from configs import eca as build\n\nget_config = build.get_config\n'
  )
  assert run('--mode=train', '--help', '--config=mine.py:smoke') == 0
  assert sys.modules['configs'].__path__ == [str(configs.folder())]


def main_file():
  """Runs main.py as a program; returns its exit code."""
  handler = signal.getsignal(signal.SIGINT)
  try:
    with pytest.raises(SystemExit) as ended:
      runpy.run_path(str(ROOT / 'main.py'), run_name='__main__')
  finally:
    signal.signal(signal.SIGINT, handler)
  return ended.value.code


@pytest.mark.parametrize('start', [entry.main, main_file])
def test_the_command_names_the_extra_that_is_missing(start, monkeypatch, capsys):
  monkeypatch.delitem(sys.modules, 'attn_flax.commands.command_line')
  monkeypatch.setitem(sys.modules, 'absl', None)
  assert start() == 2
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and "pip install 'attn_flax[train]'" in err


def test_errors_that_nothing_can_catch_are_reported_but_for_those_of_orbax(monkeypatch, capsys):
  """Orbax leaves coroutines behind when it cannot save, each of which raises such an error."""

  class Collected:
    def __init__(self, error):
      self.error = error

    def __del__(self):
      raise self.error

  def report(error):
    Collected(error)
    return capsys.readouterr().err

  monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)  # So that it is restored.
  monkeypatch.setattr(command_line, 'run', lambda argv: 0)
  for module, name in ((allocator, 'keep_freed_pages'), (stopping, 'watch_process')):
    monkeypatch.setattr(module, name, lambda: None)
  assert entry.main() == 0

  assert report(RuntimeError('Event loop is closed')) == ''
  assert 'RuntimeError: out of order' in report(RuntimeError('out of order'))
  assert 'OSError: Event loop is closed' in report(OSError('Event loop is closed'))

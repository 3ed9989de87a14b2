"""Mistakes of the user: one line that names the fix, exit code 2, nothing lost or left behind."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import run_files

from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]
# A network of one block, for tests that do not depend on the network.
TINY = ('--config.model.depths=(1,)', '--config.model.widths=(8,)', '--config.log_every=1')

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


def run(*arguments):
  """The exit code of a command line."""
  return command_line.run(['main.py', *map(str, arguments)])


def config_flag(name):
  return f'--config={ROOT}/configs/{name}.py:smoke'


MISTAKES = {
  'mode': (['--mode=trian'], '--mode=trian is unknown; did you mean --mode=train'),
  'flag': (['--wrokdir=x'], "unknown flag --wrokdir; did you mean --workdir=x"),
  'word on the command line': (['eca'], "unknown argument 'eca'; flags begin with --"),
  'no config': ([], r'--mode=train needs a config; try --config=eca'),
  'config file': (['--config={configs}/ecaa.py'], r"did you mean --config=eca\?"),
  'empty config': (['--config='], '--config is empty; name a config'),
  'word': (['--config={configs}/eca.py:smok'], "unknown word 'smok'.*did you mean 'smoke'"),
  'field': (['{eca}', '--config.model.nmae=x'], 'config.model.nmae; .*model.name=x'),
  'field of a place': (['{eca}', '--config.model.attention.branch.gama=x'], 'gama; .*gamma=x'),
  'place without attention': (['{resnet}', '--config.model.attention.branch.ratio=8'], 'branch'),
  'type': (['{eca}', '--config.train.epochs=many'], 'config.train.epochs=many'),
  'fraction': (['{eca}', '--config.train.epochs=1.5'], 'config.train.epochs=1.5'),
  'network': (['{eca}', '--config.model.name=resnet21'], "'resnet21'; did you mean 'resnet"),
  'attention': (
    ['{eca}', '--config.model.attention.branch.name=ecaa'],
    r"unknown attention 'ecaa'; did you mean 'eca'\?",
  ),
  'dataset': (['{eca}', '--config.data.name=digits'], "unknown dataset 'digits'.*cluttered_digits"),
  'size of images': (['{eca}', '--config.data.size=48'], r'size 48.*\[32, 64\]'),
  'optimizer': (['{eca}', '--config.optimizer.name=sdg'], "'sdg'; did you mean 'sgd'.*adamw"),
  'schedule': (['{eca}', '--config.optimizer.schedule=cosin'], "'cosin'; did you mean 'cosine'"),
  'step epochs': (
    ['{eca}', '--config.optimizer.schedule=step', '--config.optimizer.step_epochs=(1,2)'],
    r'step_epochs=\(1, 2\) begin within warmup_epochs=1.0; name later epochs',
  ),
  'batch norm': (['{eca}', '--config.train.batch_norm=local'], "'local'.*global, per_device"),
  'stem': (['{eca}', '--config.model.stem=cifra'], "stem 'cifra'; did you mean 'cifar'"),
  'stride_in': (['{eca}', '--config.model.stride_in=2x2'], "stride_in '2x2'.*1x1, 3x3"),
  'dtype': (['{eca}', '--config.model.dtype=float16'], "'float16'.*bfloat16, float32"),
  'word for a dtype': (['{eca}', '--config.model.dtype=half-float'], 'bfloat16, float32'),
  'ratio': (
    ['{se}', '--config.model.attention.branch.ratio=64'],
    r'ratio=64 does not fit 8 channels: the ratio must lie in 1\.\.8; lower the ratio',
  ),
  'stages': (
    ['{eca}', '--config.model.attention.branch.stages=(3,4)'],
    r'stages \(3, 4\), but the network has stages 1\.\.3',
  ),
  'every': (['{eca}', '--config.model.attention.branch.every=0'], 'every=0 meets no block'),
  'depths without widths': (['{eca}', '--config.model.depths=(1,1)'], 'differ in length'),
  'small images': (
    ['{eca}', f'--config.model.depths={(1,) * 7}', f'--config.model.widths={(8,) * 7}'],
    'images of 32x32 pixels are too small for this network, which takes 64x64 or more',
  ),
  'accumulate': (['{eca}', '--config.train.accumulate=3'], 'accumulate=3 does not divide.*64'),
  'large batch': (
    ['{eca}', '--config.train.batch_size=640'],
    'batch_size=640 exceeds the 320 training images of cluttered_digits; choose 320 at most',
  ),
  'zero epochs': (
    ['--config={configs}/eca.py', '--config.train.epochs=0'],
    'train.epochs=0 is impossible; choose a whole number from 1 to 2147483647',
  ),
  'zero updates': (['{eca}', '--config.train.steps=0'], 'train.steps=0 is impossible'),
  'zero log_every': (['{eca}', '--config.log_every=0'], 'log_every=0 is impossible'),
  'zero eval.every_epochs': (['{eca}', '--config.eval.every_epochs=0'], 'every_epochs=0 is imp'),
  'negative seed': (['{eca}', '--config.seed=-1'], 'seed=-1 is impossible'),
  'smoothing': (
    ['{eca}', '--config.train.label_smoothing=2.0'],
    'train.label_smoothing=2.0 is impossible; choose a number of at least 0 and below 1',
  ),
  'run folder below a file': (
    ['{eca}', '--workdir={file}/run'],
    r'the folder .*/run cannot be written \(Not a directory\); choose another --workdir',
  ),
  'run folder is a file': (['{eca}', '--workdir={file}'], 'cannot be written.*another --workdir'),
  'dataset folder below a file': (
    ['{eca}', '--config.data.dir={file}/data'],
    'cannot write the dataset to .*--config.data.dir',
  ),
  'nothing to evaluate': (['--mode=evaluate'], 'neither --workdir nor --config'),
  'no run to evaluate': (
    ['--mode=evaluate', '--workdir=nowhere'],
    'nowhere/config.json does not exist; name the folder of a run with --workdir',
  ),
}  # fmt: skip


@pytest.mark.parametrize(('arguments', 'message'), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(
  arguments, message, tmp_path, monkeypatch, capsys
):
  file = tmp_path / 'file'
  file.write_text('content')
  monkeypatch.chdir(tmp_path)
  places = {
    'configs': ROOT / 'configs',
    'file': file,
    **{name: config_flag(name) for name in ('resnet', 'eca', 'se')},
  }
  assert run(*(argument.format(**places) for argument in arguments)) == 2
  assert_one_line(capsys, message)
  assert list(tmp_path.rglob('*')) == [file] and file.read_text() == 'content'


def assert_one_line(capsys, message):
  """Checks that stderr holds one line, an error that matches."""
  err = capsys.readouterr().err
  assert re.fullmatch(r'error: [^\n]+\n', err), err
  assert re.search(message, err), err


@pytest.fixture(scope='module')
def tiny(small_dataset, quick_compilation, tmp_path_factory):
  """The command of a tiny run that may be extended, and the folder of the finished run."""
  workdir = tmp_path_factory.mktemp('tiny') / 'run'
  command = [
    config_flag('eca'), *TINY, '--config.train.steps=3', '--config.optimizer.schedule=constant'
  ]  # fmt: skip
  assert run(*command, f'--workdir={workdir}') == 0
  return command, workdir


@pytest.fixture
def copied(tiny, tmp_path):
  """A copy of the tiny run."""
  shutil.copytree(tiny[1], tmp_path / 'run')
  return tmp_path / 'run'


def contents(folder):
  """All files below a folder with their contents."""
  return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def edit_config(workdir, **model):
  """Changes the network in a run folder's config."""
  content = run_files.read(workdir, 'config.json')
  content['config']['model'] |= model
  (workdir / 'config.json').write_text(json.dumps(content))


def test_a_corrupt_checkpoint_is_named(tiny, copied, capsys):
  """By evaluation, and by a command that would resume from it."""
  command, _ = tiny
  data = max((copied / 'checkpoints/3/state').rglob('d/*'), key=lambda p: p.stat().st_size)
  data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
  message = 'checkpoints/3 cannot be read: it is damaged .*; no checkpoint is whole: .*--restart'
  before = contents(copied)
  assert run('--mode=evaluate', f'--workdir={copied}') == 2
  assert_one_line(capsys, message)
  assert contents(copied) == before
  (copied / 'result.json').unlink()
  assert run(*command, f'--workdir={copied}') == 2
  assert_one_line(capsys, message)
  assert data in contents(copied)


SE = {'branch': {'name': 'se', 'ratio': 4}}


@pytest.mark.parametrize(
  'model',
  [{'widths': [16]}, {'depths': [2]}, {'attention': {}}, {'attention': SE}],
  ids=['larger', 'with more', 'with less', 'with others'],
)
def test_a_foreign_checkpoint_is_refused(model, copied, capsys):
  """One of a network with arrays of other shapes, more arrays, fewer, or others."""
  edit_config(copied, **model)
  assert run('--mode=evaluate', f'--workdir={copied}') == 2
  assert_one_line(capsys, 'checkpoints/3 cannot be read: .* belongs to another network')


@pytest.mark.parametrize('name', ['config.json', 'result.json'])
def test_a_damaged_json_file_is_named(name, tiny, copied, capsys):
  command, _ = tiny
  (copied / name).write_text('{"config": ')
  assert run(*command, f'--workdir={copied}') == 2
  assert_one_line(capsys, f'{name} cannot be read')


def test_an_unknown_split_is_refused(copied, capsys):
  assert run('--mode=evaluate', f'--workdir={copied}', '--split=tset') == 2
  assert_one_line(capsys, "unknown split 'tset'; did you mean 'test'")
  assert run('--mode=evaluate', f'--workdir={copied}', '--split=val') == 2
  assert_one_line(capsys, "unknown split 'val'; did you mean 'validation'")


def test_a_folder_without_checkpoints_cannot_be_evaluated(copied, capsys):
  shutil.rmtree(copied / 'checkpoints')
  assert run('--mode=evaluate', f'--workdir={copied}') == 2
  assert_one_line(capsys, 'holds no checkpoints')


def test_another_config_is_refused_with_the_difference(tiny, copied, capsys):
  command, _ = tiny
  before = contents(copied)
  other = ['--config.seed=5', '--config.optimizer.momentum=0.5']
  assert run(*command, *other, f'--workdir={copied}') == 2
  assert_one_line(
    capsys, r'\(optimizer.momentum: 0.9 there, 0.5 asked; seed: 0 there, 5 asked\); choose another'
  )
  assert contents(copied) == before


def test_fields_that_change_no_result_may_differ(tiny, copied, data_dir, capsys):
  command, _ = tiny
  free = ['--config.log_every=7', f'--config.data.dir={data_dir}']
  assert run(*command, *free, f'--workdir={copied}') == 0
  assert 'nothing to do' in capsys.readouterr().out


def test_a_longer_run_ends_where_one_of_that_length_ends(tiny, copied, tmp_path):
  """If the schedule does not depend on the length; the first end may remain the best checkpoint."""
  command, _ = tiny
  longer = [*command, '--config.train.steps=5']
  assert run(*longer, f'--workdir={copied}') == 0
  assert run(*longer, f'--workdir={tmp_path}/direct') == 0
  assert run_files.read(copied)['steps'] == 5
  assert run_files.read(copied)['best_step'] in (3, 5)
  actual, expected = (run_files.state(path, 5) for path in (copied, tmp_path / 'direct'))
  run_files.assert_same_arrays(actual, expected)


@pytest.mark.parametrize(('schedule', 'steps'), [('constant', 2), ('cosine', 5)])
def test_a_length_that_changes_the_past_is_refused(schedule, steps, tiny, copied, capsys):
  """A shorter run, and a longer one with a cosine schedule."""
  command, _ = tiny
  content = run_files.read(copied, 'config.json')
  content['config']['optimizer']['schedule'] = schedule
  (copied / 'config.json').write_text(json.dumps(content))
  other = [f'--config.optimizer.schedule={schedule}', f'--config.train.steps={steps}']
  assert run(*command, *other, f'--workdir={copied}') == 2
  assert_one_line(capsys, rf'another config \(train.steps: 3 there, {steps} asked\)')


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
  """The line names the update and the last good checkpoint, which holds finite weights."""
  workdir = tmp_path / 'run'
  hot = ['--config.optimizer.lr_per_256=1e8', '--config.checkpoint.every_steps=1']
  assert run(config_flag('eca'), *TINY, *hot, f'--workdir={workdir}') == 2
  pattern = r'error: .* is (nan|inf) at update (\d+); the last good checkpoint is (\S+); lower .*\n'
  match = re.fullmatch(pattern, capsys.readouterr().err)
  update, good = int(match[2]), pathlib.Path(match[3])
  assert update > 1 and good == workdir / 'checkpoints' / str(update - 1)
  assert run_files.steps(workdir)[-1] == update - 1
  state = run_files.state(workdir, update - 1)
  assert all(np.isfinite(array).all() for array in state.values())
  assert [line['step'] for line in run_files.metrics(workdir)] == list(range(1, update))
  assert not (workdir / 'result.json').exists()


def test_a_loss_that_is_not_finite_at_once_says_that_nothing_is_saved(tmp_path, capsys):
  hot = ['--config.optimizer.lr_per_256=1e30', '--config.train.batch_size=320']
  assert run(config_flag('eca'), *TINY, *hot, f'--workdir={tmp_path}/run') == 2
  assert_one_line(capsys, r'(nan|inf) at update \d; there is no checkpoint yet; lower')
  assert run_files.steps(tmp_path / 'run') == []

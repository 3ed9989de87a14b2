"""A run folder that can be read but not written, such as a colleague's."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from attn_flax.commands import command_line

ROOT = pathlib.Path(__file__).parents[2]
# Runs command lines as a user who is bound by permissions, and prints how each ended. Root remains
# root, so that it can read the installation, but starts a program without the capabilities that
# override permissions.
COMMANDS = """
import contextlib, ctypes, io, json, os, sys

if os.getuid() == 0 and sys.argv[1] == 'first':
  for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP
  os.execv(sys.executable, [sys.executable, '-c', sys.argv[2], 'then', *sys.argv[2:]])
if os.access(sys.argv[3], os.W_OK):
  sys.exit('permissions do not bind this user')
from attn_flax.commands import command_line

ended = []
for arguments in json.loads(sys.argv[4]):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = command_line.run(['main.py', *arguments])
  ended.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ended))
"""
MODES = ('evaluate', 'predict', 'explain')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder that holds images, and a run on them that cannot be written."""
  folder = tmp_path_factory.mktemp('read_only')
  rng = np.random.default_rng(0)
  for split, count in (('train', 16), ('val', 4), ('test', 4)):
    for label in range(2):
      place = folder / 'images' / split / f'class{label}'
      place.mkdir(parents=True)
      for i in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f'{i}.png')
  arguments = (
    f'--config={ROOT}/configs/eca.py:folder,smoke',
    f'--config.data.dir={folder}/images',
    '--config.data.size=16',
    '--config.model.depths=(1,)',
    '--config.model.widths=(8,)',
    '--config.train.batch_size=16',
    '--config.train.steps=2',
    f'--workdir={folder}/run',
  )
  assert command_line.run(['main.py', *arguments]) == 0
  run = [folder / 'run', *(folder / 'run').rglob('*')]
  for path in run:
    path.chmod(0o555 if path.is_dir() else 0o444)
  yield folder
  for path in run:
    path.chmod(0o755)


@pytest.fixture(scope='module')
def ended(folder):
  """How each mode ended, without `--output` and with it, by both: (code, out, err)."""
  cases = [(mode, output) for output in (False, True) for mode in MODES]
  lines = [_arguments(folder, mode, output) for mode, output in cases]
  child = subprocess.run(
    [sys.executable, '-c', COMMANDS, 'first', COMMANDS, str(folder / 'run'), json.dumps(lines)],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    cwd=folder,
    capture_output=True,
    text=True,
  )
  if child.stderr.startswith('permissions do not bind'):
    pytest.skip('permissions do not bind this user, who cannot drop that right')
  assert child.returncode == 0, child.stderr
  return dict(zip(cases, json.loads(child.stdout.splitlines()[-1]), strict=True))


def _arguments(folder, mode, output):
  arguments = [f'--mode={mode}', f'--workdir={folder}/run']
  if mode != 'evaluate':
    arguments.append(f'--images={folder}/images/test')
  if mode != 'predict' and output:  # Without `--output`, predict writes nothing.
    arguments.append(f'--output={folder}/output/{mode}')
  return arguments


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['evaluate', 'explain'])
def test_without_another_folder_the_refusal_is_one_line(mode, folder, ended):
  code, out, err = ended[mode, False]
  assert (code, out) == (2, '')
  assert err == (
    f'error: the folder {folder}/run cannot be written (Permission denied); name another one with '
    '--output\n'
  )


@pytest.mark.slow
def test_evaluate_writes_elsewhere(folder, ended):
  code, out, err = ended['evaluate', True]
  found, *_, files = err.splitlines()
  assert code == 0 and found.startswith(f'{folder}/images: 2 classes;')
  assert files == f'files: {folder}/output/evaluate/evaluation.json holds all scores'
  written = json.loads((folder / 'output/evaluate/evaluation.json').read_text())
  result = json.loads((folder / 'run/result.json').read_text())
  assert json.loads(out)['test_loss'] == written['test_loss']
  assert written['test_loss'] == pytest.approx(result['test_loss'])


@pytest.mark.slow
def test_explain_writes_elsewhere(folder, ended):
  code, _, err = ended['explain', True]
  assert (code, err) == (0, '')
  written = json.loads((folder / 'output/explain/explanations.json').read_text())
  assert len(written['images']) == 8
  assert all(pathlib.Path(row['picture']).is_file() for row in written['images'])


@pytest.mark.slow
def test_predict_needs_no_other_folder(ended):
  code, out, err = ended['predict', False]
  assert (code, err) == (0, '')
  assert out.count('.png') == 8


@pytest.mark.slow
def test_nothing_was_written_into_the_run(folder, ended):
  assert len(ended) == 2 * len(MODES)
  names = {path.name for path in (folder / 'run').iterdir()}
  assert not names & {'evaluation.json', 'explanations.json', 'explanations'}

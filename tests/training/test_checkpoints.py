"""Checkpoints: which are kept, what a damaged one does, and that no failed save passes unseen."""

import errno
import gc
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_files

from attn_flax.errors import UserError
from attn_flax.tasks.names import find_task
from attn_flax.training.checkpoints import Checkpoints, read_weights


def state(value):
  return {'step': jnp.int32(value), 'params': {'kernel': jnp.full((40, 30), value, jnp.float32)}}


def abstract(like):
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)


def save_all(workdir, scores):
  """Saves a checkpoint for each score, at steps 1, 2, ...; None: without scores."""
  checkpoints = Checkpoints(workdir)
  for step, score in enumerate(scores, start=1):
    metrics = None if score is None else {'val_top1': score, 'val_loss': 1.0}
    checkpoints.save(step, state(step), {'train_seconds': step / 2}, metrics)
  checkpoints.close()


@pytest.mark.parametrize(
  ('scores', 'kept', 'best'),
  [
    ([0.1, 0.9, 0.3, 0.05, 0.02], [2, 5], 2),
    ([0.1, 0.2, 0.9], [3], 3),
    ([0.9, 0.2, None, None], [1, 4], 1),
    ([None, None, None], [3], None),  # A best one exists only among scored ones.
    ([None, 0.3, None, 0.1, None], [2, 5], 2),
    ([0.5, 0.5, 0.2], [2, 3], 2),  # Of equal ones the latest.
    ([0.5, None, 0.5], [3], 3),
    ([0.0, 0.0], [2], 2),
  ],
)
def test_the_latest_and_the_best_are_kept(scores, kept, best, tmp_path):
  """And nothing else; a folder opened anew agrees on which they are."""
  save_all(tmp_path, scores)
  assert run_files.steps(tmp_path) == kept
  for read_only in (True, False):
    checkpoints = Checkpoints(tmp_path, read_only=read_only)
    assert checkpoints.latest() == len(scores)
    assert checkpoints.best() == best
    checkpoints.close()
  assert run_files.steps(tmp_path) == kept


def test_the_best_may_be_the_lowest(tmp_path):
  """By the task: its score, and the direction; of equal ones, the latest."""
  task = find_task('classification')._replace(best='error', higher_is_better=False)
  checkpoints = Checkpoints(tmp_path, task)
  for step, error in enumerate([0.5, 0.2, 0.9, 0.2, 0.3], start=1):
    checkpoints.save(step, state(step), {}, {'val_error': error, 'val_top1': error})
  checkpoints.close()
  assert run_files.steps(tmp_path) == [4, 5]
  reader = Checkpoints(tmp_path, task, read_only=True)
  assert (reader.latest(), reader.best()) == (5, 4)
  reader.close()


def test_a_checkpoint_returns_what_was_saved(tmp_path):
  save_all(tmp_path, [0.9, 0.1])
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2):
    restored, progress = checkpoints.restore(step, abstract(state(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    assert restored['step'].dtype == jnp.int32 and progress == {'train_seconds': step / 2}
  checkpoints.close()


@pytest.mark.parametrize('average', [True, False])
def test_the_best_weights_are_the_average_where_there_is_one(tmp_path, average):
  weights = {'params': {'kernel': jnp.zeros(3)}, 'batch_stats': {'mean': jnp.zeros(2)}}
  ema = jax.tree.map(lambda leaf: leaf + 7, weights) if average else None
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {**weights, 'ema': ema}, {}, {'val_top1': 0.9})
  checkpoints.save(2, {**jax.tree.map(jnp.ones_like, weights), 'ema': ema}, {}, {'val_top1': 0.1})
  checkpoints.close()
  expected = ema or weights
  jax.tree.map(np.testing.assert_array_equal, read_weights(tmp_path), expected)


def test_a_relative_folder_works(tmp_path, monkeypatch):
  """Orbax by itself refuses relative paths."""
  monkeypatch.chdir(tmp_path)
  save_all(pathlib.Path('runs/a'), [0.5])
  assert run_files.steps(tmp_path / 'runs/a') == [1]


def test_an_empty_folder_has_no_checkpoints(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert checkpoints.latest() is None and checkpoints.best() is None
  checkpoints.close()
  with pytest.raises(UserError, match='holds no checkpoints; name the folder of a run'):
    Checkpoints(tmp_path / 'elsewhere', read_only=True)
  assert not (tmp_path / 'elsewhere').exists()


@pytest.mark.parametrize('how', ['cut', 'emptied', 'removed'])
def test_a_damaged_file_is_an_error_or_harmless(how, tmp_path):
  """Each file of a checkpoint in turn: never another state, never another exception."""
  save_all(tmp_path, [0.5])
  folder = tmp_path / 'checkpoints' / '1'
  expected = state(1)
  refused = set()
  for path in sorted(p for p in folder.rglob('*') if p.is_file()):
    content = path.read_bytes()
    if how == 'removed':
      path.unlink()
    else:
      path.write_bytes(content[: len(content) // 2] if how == 'cut' else b'')
    try:
      checkpoints = Checkpoints(tmp_path, read_only=True)
      assert checkpoints.best() in (1, None)
      restored, progress = checkpoints.restore(1, abstract(expected))
      jax.tree.map(np.testing.assert_array_equal, restored, expected)
      assert progress == {'train_seconds': 0.5}
    except UserError as error:
      assert re.search(rf'{folder}|{folder.parent} cannot be opened', str(error))
      assert 'remove' in str(error) and '\n' not in str(error)
      refused.add(path.relative_to(folder).parts[0])
    path.write_bytes(content)
  assert {'state', 'progress'} | ({'metrics'} if how != 'removed' else set()) <= refused


@pytest.mark.parametrize('reads', ['the whole state', 'the weights'])
def test_a_damaged_array_prints_no_traceback(reads, tmp_path, capfd):
  """Orbax leaves the reads of the other arrays behind, each of which would print one."""
  arrays = {f'kernel{i}': jnp.full((40, 30), i, jnp.float32) for i in range(20)}
  saved = {'params': arrays, 'batch_stats': {}}
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, saved, {}, {'val_top1': 0.5, 'val_loss': 1.0})
  checkpoints.close()
  folder = tmp_path / 'checkpoints' / '1' / 'state'
  for path in (folder / 'manifest.ocdbt', *(folder / 'd').iterdir()):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(UserError, match='checkpoints/1.* cannot be read'):
      if reads == 'the weights':
        reader.read_weights(1)
      else:
        reader.restore(1, abstract(saved))
    reader.close()
    path.write_bytes(content)
  gc.collect()  # What a task's error is printed by, where nobody has asked for it.
  printed = capfd.readouterr().err
  assert 'Traceback' not in printed and 'Event loop is closed' not in printed


@pytest.mark.parametrize(
  'like',
  [
    {'step': jnp.int32(0), 'params': {'kernel': jnp.zeros((40, 31))}},
    {'step': jnp.int32(0), 'params': {'kernel': jnp.zeros((20, 30))}},
    {'step': jnp.int32(0), 'params': {'weight': jnp.zeros((40, 30))}},
    {'step': jnp.int32(0), 'params': {'kernel': jnp.zeros((40, 30)), 'bias': jnp.zeros(30)}},
    {'step': jnp.int32(0), 'params': {}},
    {'step': jnp.int32(0)},
  ],
  ids=['larger', 'smaller', 'renamed', 'with more', 'with less', 'without'],
)
def test_another_networks_state_is_refused(like, tmp_path):
  save_all(tmp_path, [0.5])
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(UserError, match='checkpoints/1 cannot be read: .*another network'):
    checkpoints.restore(1, abstract(like))
  checkpoints.close()


@pytest.mark.parametrize('ends_with', ['save', 'close'])
def test_a_save_that_fails_in_the_background_is_reported(ends_with, tmp_path, monkeypatch):
  """By the next save, or at the end; the checkpoint before it is still there."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state(1), {}, {'val_top1': 0.5, 'val_loss': 1.0})
  checkpoints._manager.wait_until_finished()

  def fail(*_, **__):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'rename', fail)  # What makes a complete checkpoint visible.
  checkpoints.save(2, state(2), {}, None)
  with pytest.raises(OSError, match='No space left'):
    if ends_with == 'save':
      checkpoints.save(3, state(3), {}, None)
      checkpoints.close()
    else:
      checkpoints.close()
  monkeypatch.undo()
  reader = Checkpoints(tmp_path, read_only=True)
  assert (reader.latest(), reader.best()) == (1, 1)
  restored, _ = reader.restore(1, abstract(state(0)))
  jax.tree.map(np.testing.assert_array_equal, restored, state(1))
  reader.close()

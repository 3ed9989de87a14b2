"""Checkpoints: which ones are kept, and what happens to damaged ones and to saves that fail."""

import errno
import gc
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run_files

from attn_flax.errors import UserError
from attn_flax.tasks.names import find_task
from attn_flax.training.checkpoints import (
  Checkpoints,
  Damaged,
  digests,
  read_weights,
  restore_best,
)
from attn_flax.training.checkpoints.failures import saving
from attn_flax.training.distributed import processes


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
    ([0.1, 0.9, 0.3, 0.05, 0.02], [2, 4, 5], 2),
    ([0.1, 0.2, 0.9], [2, 3], 3),
    ([0.9, 0.2, None, None], [1, 3, 4], 1),
    ([None, None, None], [2, 3], None),  # Without scores there is no best one.
    ([None, 0.3, None, 0.1, None], [2, 4, 5], 2),
    ([0.5, 0.5, 0.2], [2, 3], 2),  # Of equal scores, the latest.
    ([0.5, None, 0.5], [2, 3], 3),
    ([0.0, 0.0], [1, 2], 2),
  ],
)
def test_the_latest_two_and_the_best_are_kept(scores, kept, best, tmp_path):
  """All others are deleted; a reader and a writer that open the folder later keep the same ones."""
  save_all(tmp_path, scores)
  assert run_files.steps(tmp_path) == kept
  for read_only in (True, False):
    checkpoints = Checkpoints(tmp_path, read_only=read_only)
    assert checkpoints.steps()[-1] == len(scores)
    assert checkpoints.best() == best
    checkpoints.close()
  assert run_files.steps(tmp_path) == kept


def test_the_best_may_be_the_lowest(tmp_path):
  """The task says which score decides and in which direction; of equal scores, the latest wins."""
  task = find_task('classification')._replace(best='error', higher_is_better=False)
  checkpoints = Checkpoints(tmp_path, task)
  for step, error in enumerate([0.5, 0.2, 0.9, 0.2, 0.3, 0.4], start=1):
    checkpoints.save(step, state(step), {}, {'val_error': error, 'val_top1': error})
  checkpoints.close()
  assert run_files.steps(tmp_path) == [4, 5, 6]
  reader = Checkpoints(tmp_path, task, read_only=True)
  assert (reader.steps()[-1], reader.best()) == (6, 4)
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
  """Although Orbax refuses relative paths."""
  monkeypatch.chdir(tmp_path)
  save_all(pathlib.Path('runs/a'), [0.5])
  assert run_files.steps(tmp_path / 'runs/a') == [1]


def test_an_empty_folder_has_no_checkpoints(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  assert not checkpoints.steps() and checkpoints.best() is None
  checkpoints.close()
  with pytest.raises(UserError, match='holds no checkpoints; name the folder of a run'):
    Checkpoints(tmp_path / 'elsewhere', read_only=True)
  assert not (tmp_path / 'elsewhere').exists()


@pytest.mark.parametrize('how', ['cut', 'emptied', 'removed'])
def test_a_damaged_file_is_an_error_or_harmless(how, tmp_path):
  """Each file in turn: reading returns the saved state or raises a `UserError` that names it."""
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
      assert str(folder) in str(error) and '\n' not in str(error)
      refused.add(path.relative_to(folder).parts[0])
    path.write_bytes(content)
  assert {'state', 'progress'} <= refused


@pytest.mark.parametrize('reads', ['the whole state', 'the weights'])
def test_a_damaged_array_prints_no_traceback(reads, tmp_path, capfd):
  """Orbax abandons the tasks that read the other arrays, each of which would print a traceback."""
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
    with pytest.raises(UserError, match='checkpoints/1 cannot be read: it is damaged'):
      if reads == 'the weights':
        reader.read_weights(1)
      else:
        reader.restore(1, abstract(saved))
    reader.close()
    path.write_bytes(content)
  gc.collect()  # Prints the errors of tasks that nobody has awaited.
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
  """The next save or `close` raises; the checkpoint before it is still there."""
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state(1), {}, {'val_top1': 0.5, 'val_loss': 1.0})
  checkpoints._manager.wait_until_finished()

  def fail(*_, **__):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'rename', fail)  # Orbax publishes a finished checkpoint by it.
  checkpoints.save(2, state(2), {}, None)
  with pytest.raises(UserError, match='No space left .*the one before it, 1, is whole'):
    if ends_with == 'save':
      checkpoints.save(3, state(3), {}, None)
      checkpoints.close()
    else:
      checkpoints.close()
  monkeypatch.undo()
  reader = Checkpoints(tmp_path, read_only=True)
  assert (reader.steps()[-1], reader.best()) == (1, 1)
  restored, _ = reader.restore(1, abstract(state(0)))
  jax.tree.map(np.testing.assert_array_equal, restored, state(1))
  reader.close()


def flip(path, position, bit):
  content = bytearray(path.read_bytes())
  content[position] ^= 1 << bit
  path.write_bytes(bytes(content))


def test_a_flipped_bit_is_never_read_as_if_it_were_right(tmp_path):
  """Random bits in all files of the latest checkpoint: it is damaged, or reads as saved."""
  save_all(tmp_path, [0.9, 0.1])
  folder = tmp_path / 'checkpoints' / '2'
  files = sorted(p for p in folder.rglob('*') if p.is_file() and p.stat().st_size)
  rng = np.random.default_rng(0)
  outcomes = {'named': 0, 'without effect': 0}
  for trial in range(120):
    path = files[trial % len(files)]
    whole = path.read_bytes()
    flip(path, rng.integers(len(whole)), rng.integers(8))
    reader = Checkpoints(tmp_path, read_only=True)
    try:
      restored, progress = reader.restore(2, abstract(state(0)))
      jax.tree.map(np.testing.assert_array_equal, restored, state(2))
      assert progress == {'train_seconds': 1.0}
      outcomes['without effect'] += 1
    except Damaged as error:
      assert str(folder) in str(error) and '\n' not in str(error)
      outcomes['named'] += 1
    assert reader.best() == 1
    reader.close()
    path.write_bytes(whole)
  assert sum(outcomes.values()) == 120 and outcomes['named'] >= 30, outcomes


def test_the_array_that_is_damaged_is_named(tmp_path, monkeypatch):
  """Orbax reads the file without an error, but the values are not those that were saved."""
  save_all(tmp_path, [0.5])
  reader = Checkpoints(tmp_path, read_only=True)
  of_array = digests.of_array
  monkeypatch.setattr(digests, 'of_array', lambda a: of_array(np.asarray(a) + np.ones((), a.dtype)))
  with pytest.raises(Damaged, match='params/kernel and 1 more differ from their digests'):
    reader.restore(1, abstract(state(0)))
  reader.close()


@pytest.mark.parametrize('reads', ['latest', 'best', 'weights'])
def test_a_damaged_checkpoint_is_passed_over(reads, tmp_path, capsys):
  """The latest with the best score is damaged: the one before it is used, with a warning."""
  checkpoints = Checkpoints(tmp_path)
  for step in (1, 2, 3):
    saved = {'params': {'kernel': jnp.full((40, 30), step, jnp.float32)}, 'batch_stats': {}}
    checkpoints.save(step, saved, {}, {'val_top1': step / 10})
  checkpoints.close()
  folder = tmp_path / 'checkpoints' / '3'
  (folder / 'progress' / 'metadata').write_text('{}')
  if reads == 'latest':
    writer = Checkpoints(tmp_path)
    step, restored, _ = writer.restore_latest(abstract(saved))
    writer.close()
    assert step == 2 and run_files.steps(tmp_path) == [2]  # The third has been renamed.
    assert (tmp_path / 'checkpoints' / '3.damaged').is_dir()
  elif reads == 'best':
    restored, step = restore_best(tmp_path, abstract(saved))
    assert step == 2
  else:
    restored = read_weights(tmp_path)
  assert float(restored['params']['kernel'][0, 0]) == 2
  warning = capsys.readouterr().err
  assert f'warning: the checkpoint {folder} is damaged' in warning


def test_without_a_whole_checkpoint_it_is_refused(tmp_path):
  save_all(tmp_path, [0.5, 0.6])
  for step in (1, 2):
    (tmp_path / 'checkpoints' / str(step) / 'progress' / 'metadata').write_text('[]')
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(UserError, match='no checkpoint is whole: restore .* or train again'):
    checkpoints.restore_latest(abstract(state(0)))
  checkpoints.close()
  assert run_files.steps(tmp_path) == [1, 2]  # Nothing is renamed.


def test_a_checkpoint_that_is_deleted_meanwhile_is_not_called_damaged(tmp_path, capsys):
  save_all(tmp_path, [0.9, 0.1, 0.2])
  reader = Checkpoints(tmp_path, read_only=True)
  shutil.rmtree(tmp_path / 'checkpoints' / '1')  # As the run does while it continues.
  (restored, _), step = reader.read_best(lambda step: reader.restore(step, abstract(state(0))))
  reader.close()
  assert step == 3 and int(restored['step']) == 3
  assert capsys.readouterr().err == ''


def test_checkpoints_of_a_stop_go_with_the_next_one(tmp_path):
  checkpoints = Checkpoints(tmp_path, is_regular=lambda step: step % 5 == 0)
  kept = []
  for step in (5, 10, 12, 15, 17, 20):
    checkpoints.save(step, state(step), {}, {'val_top1': -step})
    checkpoints.wait()
    kept.append(run_files.steps(tmp_path))
  checkpoints.close()
  assert kept[2:] == [[5, 10, 12], [5, 10, 15], [5, 10, 15, 17], [5, 15, 20]]


def test_scores_may_come_after_the_save(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, state(1), {'unscored': True}, None)
  checkpoints.wait()
  assert checkpoints.best() is None
  checkpoints.add_scores(1, {'val_top1': 0.5})
  checkpoints.close()
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.best() == 1
  _, progress = reader.restore(1, abstract(state(0)))
  reader.close()
  assert progress == {'unscored': False}


def test_what_a_killed_save_left_behind_is_removed(tmp_path):
  """By the next process that writes; not by readers, as the run may just be saving."""
  save_all(tmp_path, [0.5])
  left = tmp_path / 'checkpoints' / '7.orbax-checkpoint-tmp' / 'state'
  left.mkdir(parents=True)
  Checkpoints(tmp_path, read_only=True).close()
  assert left.exists()
  Checkpoints(tmp_path).close()
  assert not left.parent.exists() and run_files.steps(tmp_path) == [1]


@pytest.mark.parametrize(
  ('error', 'is_lost'),
  [
    (ValueError('UNKNOWN: Gloo AllGather failed: Read error'), True),
    (jax.errors.JaxRuntimeError('UNAVAILABLE: heartbeat'), True),
    (OSError(28, 'No space left on device'), False),
    (ValueError('RESOURCE_EXHAUSTED: Error writing local file'), False),
  ],
)
def test_a_save_that_a_lost_process_has_failed_is_no_matter_of_the_disk(
  error, is_lost, tmp_path, monkeypatch
):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises((RuntimeError, UserError)) as caught, saving(tmp_path):
    raise RuntimeError('Orbax wraps it') from error
  assert isinstance(caught.value, UserError) != is_lost
  assert processes.is_lost(caught.value) == is_lost

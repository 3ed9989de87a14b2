"""Trains a run in its folder, and scores its best checkpoint on the test split at the end."""

import contextlib
import pathlib
import sys

import numpy as np
import tqdm

from attn_flax.costs import count
from attn_flax.training import artifacts, dataset_file, left_open, lock, run_folder
from attn_flax.training.checkpoints import Checkpoints, restore_best
from attn_flax.training.config import Config
from attn_flax.training.distributed import processes
from attn_flax.training.experiment import Experiment, open_experiment
from attn_flax.training.finetune import read_source
from attn_flax.training.opening import opening
from attn_flax.training.scoring import Scorer
from attn_flax.training.updates import TIMES, Updates, saving_steps


def train(config: Config, workdir: pathlib.Path, *, restart: bool = False) -> artifacts.Json:
  """Trains the network of a config, or continues the run that the folder holds.

  A finished run is not trained again.

  Args:
    config: the config of the run, as made by `configs/base.py`.
    workdir: the run folder.
    restart: whether the run that the folder holds is removed first.

  Returns:
    The content of `result.json`.

  Raises:
    UserError: for a config that cannot be run, a folder that holds another run or is being written
      by another process, or a loss that is not finite.
    Stopped: after a signal, see `stopping`; the run is saved, and the same call continues it.
  """
  is_stored = artifacts.holds_run(workdir)

  def open_as_begun() -> Experiment:
    return open_experiment(config if restart else left_open.as_begun(config, workdir))

  with run_folder.reading_config(workdir) if is_stored else contextlib.nullcontext():
    experiment = processes.together(open_as_begun)
  asked, config = config, experiment.config
  processes.check_same('the dataset', experiment.describe_data())
  if not restart:
    processes.together(lambda: _follow_data(experiment, workdir))
  # The folder of a finished run may be read-only: nothing is written there, and no lock is taken.
  if not restart and processes.as_first(lambda: run_folder.is_finished(workdir, config)):
    return _finished(workdir)
  # Counted before the folder is made, so that a network that cannot be built leaves no folder.
  costs = {
    'params': count.count_params(
      count.abstract_variables(experiment.model, experiment.image_shape)
    ),
    'macs': count.count_macs(experiment.model, experiment.image_shape),
  }
  weights = None
  source = config.init_from
  if source is not None and (restart or not is_stored):
    weights = processes.together(lambda: read_source(source))
  with contextlib.ExitStack() as stack:
    processes.together(lambda: _open_folder(experiment, workdir, restart, stack))
    processes.check_sees(workdir / artifacts.File.CONFIG)
    if processes.as_first((workdir / artifacts.File.RESULT).exists):  # Another process was faster.
      return _finished(workdir)
    checkpoints = Checkpoints(workdir, experiment.task, is_regular=saving_steps(experiment))
    try:
      updates = Updates(experiment, workdir, checkpoints, weights)
      if processes.is_first() and updates.start < experiment.updates:
        lines = [opening(experiment, costs, updates.start, workdir)]
        if restart or not is_stored:
          images = len(experiment.dataset.splits['train'])
          lines += left_open.notes(asked, config, experiment.model, images)
        tqdm.tqdm.write('\n'.join(lines))  # Keeps the progress bar of a study intact.
        sys.stdout.flush()
      times = updates.run()
    finally:
      checkpoints.close()
    return _score(experiment, workdir, times | costs)


def _follow_data(experiment: Experiment, workdir: pathlib.Path) -> None:
  """Stores the present folder of the images in the config of the run folder."""
  if processes.is_first():
    dataset_file.follow(workdir, experiment.describe_data(), experiment.config.data.dir)


def _finished(workdir: pathlib.Path) -> artifacts.Json:
  result = run_folder.read_result(workdir)
  path = workdir / artifacts.File.RESULT
  if processes.is_first():
    print(f'{workdir} holds a finished run, nothing to do; its result is in {path}')
  return result


def _open_folder(
  experiment: Experiment, workdir: pathlib.Path, restart: bool, stack: contextlib.ExitStack
) -> None:
  """Opens the run folder on the first process; its lock is held until the stack closes."""
  if not processes.is_first():
    return
  stack.enter_context(lock.locked(workdir))
  if restart:
    run_folder.remove_run(workdir)
  run_folder.open_run(workdir, experiment.config)
  if not (workdir / artifacts.File.RESULT).exists():
    dataset_file.write(workdir, experiment.describe_data())


def _score(
  experiment: Experiment, workdir: pathlib.Path, further: artifacts.Json
) -> artifacts.Json:
  """Scores the best checkpoint of a trained run on the test split, and writes the result."""
  state, best_step = restore_best(workdir, experiment.abstract_state())
  scores, predictions = Scorer(experiment, 'test').score_state(state, 'test')
  summary, arrays = experiment.task.summary(predictions, experiment.dataset.class_names)
  if files := experiment.dataset.files.get('test'):  # The image file of each row.
    arrays['files'] = np.array(files)
  images = experiment.updates * experiment.config.train.batch_size
  result: artifacts.Json = {
    **scores,
    **{artifacts.score_name('test', name): value for name, value in summary.items()},
    'best_step': best_step,
    'params': further['params'],
    'macs': further['macs'],
    'steps': experiment.updates,
    **{name: further[name] for name in TIMES},
    'images_per_second': images / further['train_seconds'],
  }
  if processes.is_first():
    artifacts.write_arrays(workdir / artifacts.File.PREDICTIONS, predictions | arrays)
    artifacts.write_json(workdir / artifacts.File.RESULT, result)
  return result

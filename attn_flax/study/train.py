"""Trains the runs of a study that have no result yet.

Stopped runs continue, finished ones are left as they are, and failed ones are reported.
"""

import datetime
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import tqdm

from attn_flax.errors import UserError, shown
from attn_flax.study.config import StudyConfig
from attn_flax.study.plan import Planned, plan_sweep
from attn_flax.tasks.task import Task
from attn_flax.training import artifacts, dataset_file, left_open, run_folder
from attn_flax.training.artifacts import score_name
from attn_flax.training.experiment import Experiment, check_without_data, open_experiment
from attn_flax.training.lock import Locked
from attn_flax.training.loop import train
from attn_flax.training.stopping import Stopped


def check(planned: Sequence[Planned]) -> Task:
  """Builds each variant once, so that mistakes in the config end a study before it trains.

  Args:
    planned: the runs.

  Returns:
    The task that they share.

  Raises:
    UserError: for a config that cannot be run, or a run folder that holds a run of another config.
  """
  for config in {run.variant: run.config for run in planned}.values():
    check_without_data(config)
  opened: dict[str, Experiment] = {}
  for run in planned:
    if run.variant not in opened:
      opened[run.variant] = open_experiment(left_open.as_begun(run.config, run.folder))
    resolved = opened[run.variant].config.copy_and_resolve_references()
    resolved.seed = run.seed
    resolved.optimizer.lr_per_256 = run.config.optimizer.lr_per_256
    if artifacts.holds_run(run.folder):
      dataset_file.follow(run.folder, opened[run.variant].describe_data(), resolved.data.dir)
      run_folder.check_same(run.folder, resolved)
  return next(iter(opened.values())).task


def train_missing(planned: Sequence[Planned]) -> dict[str, str]:
  """Trains the runs that have no result yet, and shows how far the study is.

  A run that fails does not end the study.

  Args:
    planned: the runs of the study.

  Returns:
    {name of a failed run: why it failed}.

  Raises:
    Stopped: after a signal, see `training.stopping`; the same call then continues the study.
    Locked: where another process writes to the folder of a run.
  """
  missing = [run for run in planned if not finished(run.folder)]
  errors: dict[str, str] = {}
  began = time.perf_counter()
  with tqdm.tqdm(
    total=len(planned),
    initial=len(planned) - len(missing),
    unit='run',
    dynamic_ncols=True,
    disable=not sys.stderr.isatty(),
  ) as bar:
    for i, run in enumerate(missing):
      bar.set_description(run.name)
      if bar.disable:
        number = len(planned) - len(missing) + i + 1
        left = _left(time.perf_counter() - began, i, len(missing))
        print(f'run {number} of {len(planned)}: {run.name}{left}', flush=True)
      try:
        train(run.config, run.folder)
      except (Stopped, Locked):
        raise
      except Exception as error:  # The report lists a run that failed; the others still train.
        errors[run.name] = ' '.join(str(error).split()) or type(error).__name__
        print(f'{run.name} failed: {errors[run.name]}', file=sys.stderr, flush=True)
      jax.clear_caches()  # The next run uses none of the compiled programs.
      bar.update()
  return errors


def finished(folder: pathlib.Path) -> bool:
  """Whether a run folder has a result.

  Raises:
    UserError: where the result is damaged.
  """
  if not (folder / artifacts.File.RESULT).exists():
    return False
  run_folder.read_result(folder)
  return True


def _left(seconds: float, done: int, total: int) -> str:
  """The time left as text, from the seconds that `done` of `total` runs took; '' without any."""
  if not done:
    return ''
  left = datetime.timedelta(seconds=round(seconds / done * (total - done)))
  return f', about {left} left'


def sweep(study: StudyConfig, workdir: pathlib.Path) -> dict[str, float] | None:
  """Chooses the learning rate of each variant by its best score on the validation split.

  The rates are tried in runs of their own, with `study.sweep.seed`.

  Args:
    study: the config of the study.
    workdir: the folder of the study, where `sweep.json` is written with the rates and scores.

  Returns:
    {variant: learning rate}; with `study.only`, of the variant of that run alone; None where the
    study has no sweep.

  Raises:
    UserError: as in `check` and `plan_sweep`; where all runs of a variant failed; or where
      `sweep.json` is damaged.
    Stopped: as in `train_missing`.
  """
  planned = plan_sweep(study, workdir)
  if not planned:
    return None
  task = check(planned)
  train_missing(planned)
  scores: dict[str, dict[float, float]] = {run.variant: {} for run in planned}
  for run in planned:
    if finished(run.folder):
      rate = float(run.config.optimizer.lr_per_256)
      scores[run.variant][rate] = best_validation(run.folder, task)
  for name, found in scores.items():
    if not found:
      raise UserError(f'every run of the sweep of {name} failed; lower sweep.lr_per_256')
  best = max if task.higher_is_better else min
  rates = {name: best(found, key=lambda rate: found[rate]) for name, found in scores.items()}
  path, key = workdir / 'sweep.json', f'validation_{task.best}'
  # An earlier call may have chosen the rates of other variants.
  before = artifacts.read_json(path, 'remove it') if path.exists() else {}
  content: dict[str, dict] = {'chosen': rates, key: scores}
  for name, found in content.items():
    if not isinstance(old := before.get(name, {}), dict):
      raise UserError(f'{path} has {name}={shown(old)}, which no study writes; remove the file')
    content[name] = old | found
  artifacts.write_json(path, content)
  return rates


def best_validation(folder: pathlib.Path, task: Task) -> float:
  """The best validation score that a run logged, of its moving average where it kept one.

  Args:
    folder: the run folder.
    task: says which score that is, and whether higher is better.

  Raises:
    UserError: where the log has no such score.
  """
  rows = artifacts.read_metrics(folder)
  name, averaged = (score_name('val', task.best, averaged=kind) for kind in (False, True))
  best = max if task.higher_is_better else min
  scores = [float(row[averaged] if averaged in row else row[name]) for row in rows if name in row]
  if not scores:
    raise UserError(
      f'{folder}/{artifacts.File.METRICS} holds no {name}; restore the file from a copy, or remove '
      'the folder to train the run again'
    )
  return best(scores)

"""Scores the best checkpoint of a run again, by `--mode=evaluate`."""

import json
import pathlib

from absl import flags

from attn_flax.commands.workdir import output_folder, workdir
from attn_flax.data.normalization import in_text
from attn_flax.errors import UserError, check_choice
from attn_flax.training import artifacts, dataset_file, left_open, run_folder
from attn_flax.training.checkpoints import restore_best
from attn_flax.training.config import Config
from attn_flax.training.distributed import processes
from attn_flax.training.environment import environment
from attn_flax.training.experiment import Experiment, open_experiment
from attn_flax.training.scoring import Scorer

# Sections in which a run's config and that of its evaluation may differ.
_SCORED_ALIKE = ('augment', 'data', 'eval')


def run(values: flags.FlagValues) -> None:
  """Scores a run, and prints the scores."""
  folder, output = workdir(values), output_folder(values)
  result = evaluate_run(folder, values.split, output, values.config)
  if processes.is_first():
    print(json.dumps(result, indent=2))


def evaluate_run(
  folder: pathlib.Path,
  split: str = 'test',
  output: pathlib.Path | None = None,
  config: Config | None = None,
) -> artifacts.Json:
  """Scores a run folder's best checkpoint again, and writes `evaluation.json`.

  Args:
    folder: the run folder.
    split: the split to score.
    output: the folder of the result; None: the run folder.
    config: the run's config with other fields of `data`, for data that has moved or other data;
      fields of `augment` and `eval` may differ, too; None: the run's own.

  Returns:
    `step` of the checkpoint, `<split>_<score>` for each score of the task, `<split>_count`, and
    `<split>_ema_<score>` where the run kept a moving average.

  Raises:
    UserError: the folder holds no run or one of another config, the data has other classes, the
      split is unknown, or the folder cannot be written.
  """

  def open_checked() -> Experiment:
    with run_folder.reading_config(folder):
      chosen = run_folder.load_config(folder)
      if processes.is_first():  # Before the work.
        artifacts.check_writable(output or folder, 'name another one with --output')
      if config is not None:
        chosen = _normalized_alike(left_open.as_begun(config, folder), folder)
      experiment = open_experiment(chosen, trains=False)
    if config is not None:
      run_folder.check_same(folder, experiment.config, may_differ=_SCORED_ALIKE)
      _check_classes(experiment, folder)
    check_choice('split', split, experiment.dataset.splits)
    return experiment

  experiment = processes.together(open_checked)
  processes.check_sees(folder / artifacts.File.CONFIG)
  processes.check_same('the dataset', experiment.describe_data())
  state, step = processes.together(lambda: restore_best(folder, experiment.abstract_state()))
  scores, _ = Scorer(experiment, split).score_state(state, split)
  result = {'step': step, **scores}
  if processes.is_first():
    artifacts.write_json(
      (output or folder) / artifacts.File.EVALUATION, {**result, **environment()}
    )
  return result


def _normalized_alike(config: Config, folder: pathlib.Path) -> Config:
  """A config whose data is normalized as the run's own was."""
  described = dataset_file.load(folder)
  config = config.copy_and_resolve_references()
  config.data.normalize = in_text(described['mean'], described['std'])
  return config


def _check_classes(experiment: Experiment, folder: pathlib.Path) -> None:
  """Raises `UserError` where the classes of the data are not those of the run."""
  names = dataset_file.load(folder)['class_names']
  if not dataset_file.same_names(experiment.dataset.class_names, names):
    raise UserError(
      f'{experiment.config.data.name} has other classes than the data that {folder} was trained '
      'on; choose data of the same classes, in the same order'
    )

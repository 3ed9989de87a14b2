"""Scores a run folder again, by `--mode=evaluate`."""

import json
import pathlib

from absl import flags

from attn_flax.commands.workdir import workdir
from attn_flax.errors import check_choice
from attn_flax.training import run_folder
from attn_flax.training.checkpoints import restore_best
from attn_flax.training.experiment import open_experiment
from attn_flax.training.scoring import Scorer


def run(values: flags.FlagValues) -> None:
  """Scores a run, and prints the scores."""
  print(json.dumps(evaluate_run(workdir(values), values.split), indent=2))


def evaluate_run(folder: pathlib.Path, split: str = 'test') -> run_folder.Json:
  """Scores a run folder's best checkpoint again, and writes `evaluation.json` there.

  Returns:
    `step` of the checkpoint, `<split>_<score>` for each score of the task, `<split>_count`, and
    `<split>_ema_<score>` where the run kept a moving average.

  Raises:
    UserError: for a folder without a run, or an unknown split.
  """
  experiment = open_experiment(run_folder.load_config(folder), trains=False)
  check_choice('split', split, experiment.dataset.splits)
  state, step = restore_best(folder, experiment.abstract_state())
  scores, _ = Scorer(experiment, split).score_state(state, split)
  result = {'step': step, **scores}
  run_folder.write_json(folder / 'evaluation.json', {**result, **run_folder.environment()})
  return result

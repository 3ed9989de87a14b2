"""Scores the best checkpoint of a run again, by `--mode=evaluate`."""

import json
import pathlib
import sys

from absl import flags
from ml_collections import ConfigDict

from attn_flax.commands.closing import scored
from attn_flax.commands.workdir import output_folder, workdir
from attn_flax.data import SPLITS
from attn_flax.data.normalization import in_text
from attn_flax.errors import UserError, check_choice, listed
from attn_flax.files import composed
from attn_flax.tasks.names import find_task
from attn_flax.training import artifacts, dataset_file, left_open, run_folder
from attn_flax.training.checkpoints import restore_best
from attn_flax.training.config import Config
from attn_flax.training.distributed import processes
from attn_flax.training.environment import environment
from attn_flax.training.experiment import Experiment, open_experiment
from attn_flax.training.scoring import Scorer

# Sections in which a run's config and that of its evaluation may differ.
_SCORED_ALIKE = ('augment', 'data', 'eval')
_NAMED = 5  # Class names that an error lists.


def run(values: flags.FlagValues) -> None:
  """Scores a run; prints the scores as JSON on stdout, and in words on stderr."""
  folder, output = workdir(values), output_folder(values)
  result = evaluate_run(folder, values.split, output, values.config)
  if processes.is_first():
    print(json.dumps(result, indent=2), flush=True)
    task = find_task(run_folder.load_config(folder).task)
    file = (output or folder) / artifacts.File.EVALUATION
    print(scored(result, task, values.split, file), file=sys.stderr)


def evaluate_run(
  folder: pathlib.Path,
  split: str = 'test',
  output: pathlib.Path | None = None,
  config: Config | None = None,
) -> artifacts.Json:
  """Scores a run folder's best checkpoint again, and writes `evaluation.json`.

  Args:
    folder: the run folder.
    split: the split to score; data of another folder of images may hold it alone.
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
  check_choice('split', split, SPLITS)

  def open_checked() -> Experiment:
    with run_folder.reading_config(folder):
      chosen = run_folder.load_config(folder)
      if processes.is_first():  # Before the work.
        artifacts.check_writable(output or folder, 'name another one with --output')
      if config is not None:
        chosen = _treated_alike(left_open.as_begun(config, folder), folder)
      experiment = open_experiment(chosen, trains=False, alone=split)
    if config is not None:
      _check_classes(experiment, folder)
      run_folder.check_same(folder, experiment.config, may_differ=_SCORED_ALIKE)
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


def _treated_alike(config: Config, folder: pathlib.Path) -> Config:
  """A config whose images are resized and normalized as those of the run were.

  Its number of classes is that of its data, which `_check_classes` compares by their names.
  """
  fields = config.to_dict()
  data, model = fields['data'], fields['model']
  if 'num_classes' in model:
    model['num_classes'] = None
  if (folder / artifacts.File.DATASET).exists():  # An imported run may have been without its data.
    described = dataset_file.load(folder)
    data['normalize'] = in_text(described['mean'], described['std'])
    if data['size'] is None:
      data['size'], data['enlarge'] = described['image_shape'][0], True
  return ConfigDict(fields)


def _check_classes(experiment: Experiment, folder: pathlib.Path) -> None:
  """Raises `UserError` where the classes of the data are not those of the run."""
  if not (folder / artifacts.File.DATASET).exists():
    return
  names = dataset_file.load(folder)['class_names']
  found = experiment.dataset.class_names
  if not dataset_file.same_names(found, names):
    place = experiment.config.data.dir or experiment.config.data.name
    lacks = set(map(composed, found)) < set(map(composed, names))
    raise UserError(
      f'{place} has other classes than the data that {folder} was trained on '
      f'({listed(found, _NAMED)} there, {listed(names, _NAMED)} in the run); '
      'choose data of the same classes'
      + ', with an empty folder for a class without images'
      * lacks
    )

"""The last lines that a run prints: its scores, where its files are, and what to do next."""

import math
import pathlib
import shlex
from collections.abc import Mapping

from attn_flax.commands.flags import program
from attn_flax.errors import counted
from attn_flax.tasks.task import Task
from attn_flax.training.artifacts import File, Folder, Json, score_name

_NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations.


def wilson(share: float, count: int) -> tuple[float, float]:
  """The 95 % confidence interval of a share that was found on `count` images, by Wilson's score.

  Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927. The
  interval lies within 0..1, and its width is above 0 even if all images are right.
  """
  square = _NORMAL_95**2
  middle = (share + square / (2 * count)) / (1 + square / count)
  spread = math.sqrt(share * (1 - share) / count + square / (4 * count**2))
  half = _NORMAL_95 * spread / (1 + square / count)
  return max(middle - half, 0.0), min(middle + half, 1.0)


def scored(result: Json, task: Task, split: str, file: pathlib.Path) -> str:
  """The last lines of an evaluation.

  Args:
    result: the content of `evaluation.json`.
    task: the run's task.
    split: the split that was scored.
    file: the file that holds all scores.
  """
  return '\n'.join(
    (
      f'{split}: {_scores(result, task, split)}',
      f'checkpoint: that of update {result["step"]:,}, the best of the run',
      f'files: {file} holds all scores',
    )
  )


def closing(result: Json, task: Task, workdir: pathlib.Path, data_dir: str | None) -> str:
  """The last lines that a run prints.

  Args:
    result: the content of `result.json`.
    task: the run's task.
    workdir: the run folder.
    data_dir: the folder of its images; None if its dataset is not a folder of images.
  """
  folder = shlex.quote(str(workdir))
  steps = result.get('steps', 0)
  lines = [
    f'test: {_scores(result, task, "test")}',
    f'checkpoint: that of update {result.get("best_step", steps):,} of {steps:,}, the best on the '
    'validation images',
    *_times(result),
    f'files: {workdir} holds {File.RESULT} (all scores), {File.PREDICTIONS}, {File.METRICS}, '
    f'{Folder.TENSORBOARD}/ and {Folder.CHECKPOINTS}/',
    f'next: {program()} --mode=compare --workdirs={folder},<another run>',
  ]
  if task.classes is not None:
    images = shlex.quote(data_dir) if data_dir else '<photo.jpg or folder>'
    lines.append(f'  or: {program()} --mode=explain --workdir={folder} --images={images}')
  return '\n'.join(lines)


def _times(result: Json) -> list[str]:
  """The line of the times and the speed that a result holds; [] for one without times."""
  parts = []
  if 'train_seconds' in result:
    rate = result.get('images_per_second')
    speed = '' if rate is None else f' ({rate:,.0f} images/s)'
    parts.append(f'{_duration(result["train_seconds"])} of training{speed}')
  if 'compile_seconds' in result:
    parts.append(f'{_duration(result["compile_seconds"])} of compilation')
  return [f'time: {", ".join(parts)}'] if parts else []


def _scores(result: Mapping[str, object], task: Task, split: str) -> str:
  """The scores on a split, the task's `best` first; of the moving average if it was kept."""
  averaged = score_name(split, task.best, averaged=True) in result
  count = int(str(result.get(score_name(split, 'count'), 0)))
  shares = {task.best, *task.logged} if task.best_range == (0, 1) else set()
  texts = []
  for name in dict.fromkeys([task.best, *task.logged, 'loss']):
    value = result.get(score_name(split, name, averaged=averaged))
    if not isinstance(value, int | float):
      continue
    text = f'{name} ' + (f'{100 * value:.1f} %' if name in shares else f'{value:.3g}')
    # Each image is right or wrong.
    if name == task.best and name in shares and task.classes is not None and count:
      low, high = (f'{100 * bound:.1f}' for bound in wilson(value, count))
      text += f' (95 % interval {low} to {high} %, {counted(count, "image")})'
    texts.append(text)
  return ', '.join(texts) + (', by the moving average of the weights' if averaged else '')


def _duration(seconds: float) -> str:
  """Seconds in the unit that a person would use."""
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, hours = round(seconds / 60), seconds / 3600
  return f'{minutes} min' if minutes < 120 else f'{hours:.1f} h'

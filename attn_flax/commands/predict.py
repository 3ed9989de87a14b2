"""Predicts the classes of a user's images with a trained run, by `--mode=predict`."""

import csv
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from attn_flax.commands.images import find_images, read_batches
from attn_flax.commands.workdir import output_folder, workdir
from attn_flax.errors import UserError, counted
from attn_flax.training import artifacts
from attn_flax.training.trained_run import TrainedRun, batch_size, open_trained


def run(values: flags.FlagValues) -> None:
  """Prints the likeliest classes of each image, or writes them into a CSV file."""
  if not values.images:
    raise UserError('--mode=predict needs --images=<files and folders>')
  output = output_folder(values)
  if output is not None:
    check_table(output)
    count = write_table(output, predict_files(workdir(values), values.images))
    print(f'{output} holds the likeliest classes of {counted(count, "image")}')
    return
  for path, answers in predict_files(workdir(values), values.images):
    print(path)
    for name, probability in answers:
      print(f'  {probability:7.2%}  {name}')


class Answer(NamedTuple):
  """One of the likeliest classes of an image."""

  label: int
  name: str
  probability: float


# The first columns of a CSV file; columns of the next classes follow.
_HEADER = ('file', 'class', 'probability')


def check_table(path: pathlib.Path) -> None:
  """Raises `UserError` if no CSV file can be written at a path; makes its folder."""
  if path.suffix.lower() != '.csv' or path.is_dir():
    other = path / 'predictions.csv'
    raise UserError(f'--output={path} is not a CSV file; name one, such as {other}')
  artifacts.check_writable(path.parent, 'name a file elsewhere with --output')


def write_table(
  path: pathlib.Path, predictions: Iterable[tuple[pathlib.Path, list[tuple[str, float]]]]
) -> int:
  """Writes a CSV file with a row for each image; it appears when all rows are written.

  Columns are `file`, `class`, `probability`, then `class_2`, `probability_2` and so on, one pair
  for each class of an image.

  Args:
    path: the file.
    predictions: files, and the likeliest classes of each with their probabilities.

  Returns:
    The number of images.
  """
  count = 0
  with artifacts.replacing(path, 'name a file elsewhere with --output') as partial:
    # File names may contain bytes that are not text; they are written unchanged.
    with partial.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
      writer = csv.writer(file)
      for count, (image, answers) in enumerate(predictions, start=1):  # noqa: B007
        if count == 1:
          further = [f'{name}_{k}' for k in range(2, len(answers) + 1) for name in _HEADER[1:]]
          writer.writerow([*_HEADER, *further])
        likeliest = [x for name, probability in answers for x in (name, f'{probability:.6g}')]
        writer.writerow([image, *likeliest])
  return count


def predict(
  trained: TrainedRun, images: np.ndarray, k: int = 5, batch: int | None = None
) -> list[list[Answer]]:
  """The k likeliest classes of each image, the likeliest first.

  Args:
    trained: the run.
    images: [N, H, W, 3] uint8, as `TrainedRun.read` gives them.
    k: number of classes; a run with fewer gives all.
    batch: see `TrainedRun.probabilities`.
  """
  probabilities = trained.probabilities(images, batch)
  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :k]
  return [
    [Answer(int(label), trained.class_names[label], float(row[label])) for label in labels]
    for labels, row in zip(order, probabilities, strict=True)
  ]


def predict_files(
  folder: pathlib.Path, images: Sequence[str]
) -> Iterator[tuple[pathlib.Path, list[tuple[str, float]]]]:
  """Yields image files with their likeliest classes; names files that cannot be read on stderr.

  Raises:
    UserError: the folder holds no run, or no image can be read.
  """
  trained, paths = open_trained(folder), find_images(images)
  read = 0
  for good, pixels, broken in read_batches(trained, paths):
    for name, reason in broken.items():
      print(f'{name} cannot be read and is left out: {reason}', file=sys.stderr)
    if good:
      found = predict(trained, pixels, batch=batch_size(paths))
      for path, answers in zip(good, found, strict=True):
        yield path, [(answer.name, answer.probability) for answer in answers]
    read += len(good)
  if not read:
    raise UserError('no image can be read; name others in --images')

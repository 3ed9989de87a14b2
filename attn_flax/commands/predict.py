"""A trained run on images of one's own: predictions, by `--mode=predict`."""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from attn_flax.commands.images import find_images, read_batches
from attn_flax.commands.workdir import workdir
from attn_flax.errors import UserError
from attn_flax.training.trained_run import TrainedRun, batch_size, open_trained


def run(values: flags.FlagValues) -> None:
  """Prints the likeliest classes of each image."""
  if not values.images:
    raise UserError('--mode=predict needs --images=<files and folders>')
  for path, answers in predict_files(workdir(values), values.images):
    print(path)
    for name, probability in answers:
      print(f'  {probability:7.2%}  {name}')


class Answer(NamedTuple):
  """One of the likeliest classes of an image."""

  label: int
  name: str
  probability: float


def predict(
  trained: TrainedRun, images: np.ndarray, k: int = 5, batch: int | None = None
) -> list[list[Answer]]:
  """The k likeliest classes of each image, the likeliest first; `batch`: see `probabilities`."""
  probabilities = trained.probabilities(images, batch)
  order = np.argsort(-probabilities, axis=1, kind='stable')[:, :k]
  return [
    [Answer(int(label), trained.class_names[label], float(row[label])) for label in labels]
    for labels, row in zip(order, probabilities, strict=True)
  ]


def predict_files(
  folder: pathlib.Path, images: Sequence[str]
) -> Iterator[tuple[pathlib.Path, list[tuple[str, float]]]]:
  """Yields image files with their likeliest classes; says on stderr which cannot be read.

  Raises:
    UserError: for a folder without a run, or when no image can be read.
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
    raise UserError(f'none of the {len(paths)} images can be read')

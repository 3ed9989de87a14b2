"""What a network learns: the contract between a task and training, studies and reports."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

# What is stored about the examples of a split, [n, ...] each, such as 'logits' and 'labels'.
Predictions = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Task:
  """A task.

  Attributes:
    name: such as 'classification'.
    loss: of a batch.
    sums: over the examples of a batch.
    scores: of sums.
    best: the score that networks are chosen and compared by.
    higher_is_better: whether larger values of `best` are better.
    logged: the scores that training logs.
    predictions: what is stored of a network's outputs for a batch.
    examples: [n], what each example adds to `best`.
    further: scores of a whole run beside `best`.
    summary: of a whole run, with the names of the classes: values, and arrays.
    pages: which pages of the report show it.
  """

  name: str
  loss: Callable[..., jax.Array] | None
  sums: Callable[..., Mapping[str, jax.Array]] | None
  scores: Callable[..., Mapping[str, float]] | None
  best: str
  higher_is_better: bool
  logged: Sequence[str]
  predictions: Callable[..., Mapping[str, jax.Array]] | None
  examples: Callable[[Predictions], np.ndarray]
  further: Callable[[Predictions], dict[str, float]]
  summary: Callable[[Predictions, Sequence[str]], tuple[dict[str, float], dict[str, np.ndarray]]]
  pages: str

"""Computes what the pictures of a report show: maps, gates and predictions on a few images."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from attn_flax.explain import (
  attention_from,
  attention_maps,
  attention_received,
  grad_cam,
  in_batches,
)
from attn_flax.layers.types import Variables
from attn_flax.models.network import Network
from attn_flax.study.explain import BATCH, Images
from attn_flax.study.explanations import Gates, Pictured
from attn_flax.tasks.task import Classes


def choose(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
  """Draws images at random from as many classes as possible.

  Args:
    labels: [n] int, labels of the images.
    count: how many to draw, if there are so many.
    seed: of the random numbers; equal seeds choose the same images.

  Returns:
    Positions of the chosen images, ordered by label.
  """
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels))
  rank = np.zeros(len(labels), int)  # Of each image: how many of its class come before it.
  for label in np.unique(labels):
    members = shuffled[labels[shuffled] == label]
    rank[members] = np.arange(len(members))
  chosen = shuffled[np.argsort(rank[shuffled], kind='stable')][:count]
  return chosen[np.argsort(labels[chosen], kind='stable')]


class Picturer:
  """Computes the pictures of one network, for any weights."""

  def __init__(self, model: Network, normalize: Callable[[jax.Array], jax.Array], classes: Classes):
    """Prepares the programs.

    Args:
      model: the network.
      normalize: a compiled function that turns uint8 images into the network's input.
      classes: how the network's outputs name a class.
    """
    self._model = model
    self._classes = classes
    self._normalize = normalize

    def channel_gates(variables: Variables, images: jax.Array) -> dict[str, jax.Array]:
      found = attention_maps(model, variables, normalize(images))
      return {path: gate for path, gate in found.items() if path.endswith('/channel_gate')}

    self._channel_gates = jax.jit(channel_gates)

  def picture(
    self,
    variables: Variables,
    seed: int,
    shown: np.ndarray,
    images: Images,
    outputs: np.ndarray,
    query: tuple[float, float],
  ) -> Pictured:
    """Predictions, Grad-CAM for the labels, and gates of the network on some images.

    Args:
      variables: the trained weights.
      seed: the seed of their run.
      shown: positions of the P images to show.
      images: all images; channel gates are averaged over those of each class.
      outputs: the network's outputs for the images to show, [P, K].
      query: (y, x) of the query position, as shares of height and width.
    """
    x = self._normalize(images.image[shown])
    gates = Gates(
      spatial=self._spatial(variables, x),
      channel=self._by_class(variables, images, outputs.shape[1]),
      attention=jax.device_get(attention_from(self._model, variables, x, query)),
      query=query,
    )
    return Pictured(
      seed=seed,
      cams=np.asarray(grad_cam(self._model, variables, x, images.label[shown])),
      predicted=outputs.argmax(1),
      confidence=np.asarray(self._classes.probabilities(outputs)).max(1),
      gates=gates,
    )

  def _spatial(self, variables: Variables, x: jax.Array) -> dict[str, np.ndarray]:
    found = attention_maps(self._model, variables, x)
    maps = {path: np.asarray(gate) for path, gate in found.items() if gate.ndim > 2}
    maps = {path: gate.mean(-1) if gate.ndim == 4 else gate for path, gate in maps.items()}
    received = attention_received(self._model, variables, x)
    return maps | {f'{path}/received': np.asarray(one) for path, one in received.items()}

  def _by_class(
    self, variables: Variables, images: Images, num_classes: int
  ) -> dict[str, np.ndarray]:
    function = functools.partial(self._channel_gates, variables)
    found = in_batches(function, images.image, batch_size=BATCH)
    return {path: class_means(gate, images.label, num_classes) for path, gate in found.items()}


def class_means(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
  """Means [K, C] of values [n, C] over the images of each class; NaN for a class without any."""
  sums = np.zeros((num_classes, values.shape[1]))
  np.add.at(sums, labels, values)
  counts = np.bincount(labels, minlength=num_classes)
  return np.where(counts[:, None], sums / np.maximum(counts, 1)[:, None], np.nan)

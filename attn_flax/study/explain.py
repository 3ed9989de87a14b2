"""The maps of one run, with their scores and those of their controls for each image."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.explain import grad_cam, in_batches, own_map
from attn_flax.explain.chance import image_numbers
from attn_flax.explain.controls import centered_gaussian, random_maps
from attn_flax.explain.localization import energy_inside, pointing_game, threshold_iou
from attn_flax.explain.maps import points_nowhere
from attn_flax.explain.perturbation import faithfulness
from attn_flax.layers.types import Variables
from attn_flax.models.network import Network
from attn_flax.study.explanations import Control, Kind
from attn_flax.training.experiment import options_to_run_once

# Thresholds, as shares of a map's maximum, among which the best IoU is chosen.
THRESHOLDS = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
BATCH = 50

# The source of a map that is scored: one of `Control`, or this for the map itself.
MAP = 'map'
# {source: values [images]}
BySource = dict[str, np.ndarray]


class Images(NamedTuple):
  """Images to explain.

  Attributes:
    image: [n, H, W, 3] uint8.
    label: [n] int32.
    mask: [n, H, W] bool; None for a dataset without masks.
    box: [n, H, W] bool, the pixels of the box; None for a dataset without boxes.
    fixed: [H, W], the best fixed map, from other images; None where there is none.
  """

  image: np.ndarray
  label: np.ndarray
  mask: np.ndarray | None
  box: np.ndarray | None
  fixed: np.ndarray | None

  def take(self, index: np.ndarray) -> 'Images':
    """The images at some positions, [m] int, in that order."""
    mask, box = (None if part is None else part[index] for part in (self.mask, self.box))
    return Images(self.image[index], self.label[index], mask, box, self.fixed)


class Explained(NamedTuple):
  """The scores of one run.

  Attributes:
    localization: {kind of map: {score: {source: [n]}}}; 'iou' has [n, thresholds].
    perturbation: insertion, deletion and ROAD likewise, over the perturbed images alone.
    empty: [n] bool, whether the Grad-CAM map is all zero.
    empty_random: [n] bool, the same for the network with random weights.
  """

  localization: dict[str, dict[str, BySource]]
  perturbation: dict[str, dict[str, BySource]]
  empty: np.ndarray
  empty_random: np.ndarray


class Explainer:
  """Explains one network with any weights; its programs are compiled once."""

  def __init__(
    self,
    model: Network,
    normalize: Callable[[jax.Array], jax.Array],
    steps: int,
    platform: str,
  ):
    """Prepares the programs, which are compiled when they are first called.

    Args:
      model: the network.
      normalize: a compiled function that turns uint8 images into the network's input.
      steps: number of steps of insertion and deletion.
      platform: the platform of the devices, such as 'cpu'.
    """
    self._model = model
    self._normalize = normalize
    self._steps = steps
    self._init = jax.jit(
      functools.partial(model.init, train=False),
      compiler_options=options_to_run_once(platform),
    )

  def _cam(self, variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array:
    return grad_cam(self._model, variables, self._normalize(images), labels)

  def _own(self, variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array | None:
    del labels
    return own_map(self._model, variables, self._normalize(images))

  def _faithfulness(
    self, variables: Variables, images: jax.Array, labels: jax.Array, maps: jax.Array
  ) -> dict[str, jax.Array]:
    x = self._normalize(images)
    return faithfulness(self._model, variables, x, labels, maps, steps=self._steps)

  def maps(self, variables: Variables, images: Images) -> dict[str, np.ndarray]:
    """Maps [n, h, w] by `Kind`; `OWN_MAP` is missing where the network has none.

    Args:
      variables: the weights.
      images: the images; Grad-CAM explains the class of their labels.
    """
    methods = {Kind.GRAD_CAM: self._cam, Kind.OWN_MAP: self._own}
    found = {
      kind: in_batches(functools.partial(method, variables), *images[:2], batch_size=BATCH)
      for kind, method in methods.items()
    }
    return {kind: maps for kind, maps in found.items() if maps is not None}

  def explain(
    self,
    variables: Variables,
    images: Images,
    perturbed: np.ndarray,
    key: jax.Array,
  ) -> Explained:
    """Scores the maps of a run and their controls.

    Args:
      variables: the trained weights.
      images: the images, all predicted correctly.
      perturbed: positions of those images that insertion, deletion and ROAD perturb.
      key: random key of the random maps and the random weights.
    """
    fresh = self._init(key, self._normalize(jnp.asarray(images.image[:1])))
    trained, random = self.maps(variables, images), self.maps(fresh, images)
    numbers = image_numbers(images.image)
    kinds = {
      kind: {
        MAP: maps,
        # At the resolution of the map: finer noise would be spread over more of the image.
        Control.RANDOM_MAP: np.asarray(random_maps(key, *maps.shape, positions=numbers)),
        Control.RANDOM_WEIGHTS: _filled(random[kind]),
      }
      for kind, maps in trained.items()
    }
    shared = _shared_controls(images)
    few = images.take(perturbed)
    scores_of_shared = _localize_all(shared, images)
    perturbed_shared = self._perturb_all(shared, variables, few, perturbed)
    localization, perturbation = {}, {}
    for kind, sources in kinds.items():
      localization[kind] = _join(_localize_all(sources, images), scores_of_shared)
      own_scores = self._perturb_all(sources, variables, few, perturbed)
      perturbation[kind] = _join(own_scores, perturbed_shared)
    empty, empty_random = (
      np.asarray(points_nowhere(one[Kind.GRAD_CAM])) for one in (trained, random)
    )
    return Explained(localization, perturbation, empty, empty_random)

  def _perturb_all(
    self,
    sources: Mapping[str, np.ndarray],
    variables: Variables,
    few: Images,
    perturbed: np.ndarray,
  ) -> dict[str, BySource]:
    scores: dict[str, BySource] = {}
    for source, maps in sources.items():
      score = functools.partial(self._faithfulness, variables)
      found = in_batches(score, *few[:2], maps[perturbed], batch_size=BATCH)
      for name, values in found.items():
        scores.setdefault(name, {})[source] = values
    return scores


def _filled(maps: np.ndarray) -> np.ndarray:
  """The maps of a control, each empty one replaced by a constant map.

  An untrained network's Grad-CAM is empty for whole classes. Counted as misses, these maps would
  put the control below chance, and a map without any information would beat it.
  """
  return np.where(np.asarray(points_nowhere(maps))[:, None, None], 1, maps)


def _shared_controls(images: Images) -> BySource:
  """Controls that depend neither on the network nor on the kind of map, by name."""
  n, height, width = len(images.image), *images.image.shape[1:3]
  controls: BySource = {Control.GAUSSIAN: _repeat(np.asarray(centered_gaussian(height, width)), n)}
  if images.fixed is not None:
    controls[Control.FIXED_MAP] = _repeat(images.fixed, n)
  return controls


def _repeat(one: np.ndarray, n: int) -> np.ndarray:
  return np.broadcast_to(one, (n, *one.shape))


@jax.jit
def _localize(maps: jax.Array, masks: jax.Array) -> dict[str, jax.Array]:
  return {
    'pointing': pointing_game(maps, masks),
    'energy': energy_inside(maps, masks),
    'iou': threshold_iou(maps, masks, jnp.array(THRESHOLDS)),
  }


def _localize_all(sources: Mapping[str, np.ndarray], images: Images) -> dict[str, BySource]:
  """Localization scores: {score: {source: values}}; {} for images without masks and boxes."""
  scores: dict[str, BySource] = {}
  for source, maps in sources.items():
    for region, inside in (('mask', images.mask), ('box', images.box)):
      if inside is None:
        continue
      found = in_batches(_localize, maps, inside, batch_size=BATCH)
      scores.setdefault(f'energy_{region}', {})[source] = found['energy']
      # The mask is more precise; the box is used where there is no mask.
      if region == 'mask' or images.mask is None:
        scores.setdefault('pointing', {})[source] = found['pointing']
        scores.setdefault('iou', {})[source] = found['iou']
  return scores


def _join(first: dict[str, BySource], second: dict[str, BySource]) -> dict[str, BySource]:
  return {name: first[name] | second.get(name, {}) for name in first}

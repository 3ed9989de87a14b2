"""Evaluates, times and explains the runs of a study: from checkpoints to `Findings`."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from attn_flax import data
from attn_flax.data import Records, Split
from attn_flax.errors import UserError
from attn_flax.explain.controls import best_fixed_map
from attn_flax.explain.maps import box_mask
from attn_flax.models.network import Network
from attn_flax.study import conditions, costs, mechanisms, performance
from attn_flax.study.config import ReportConfig
from attn_flax.study.explain import Explained, Explainer, Images
from attn_flax.study.explanations import Pictured
from attn_flax.study.findings import Findings, Variant
from attn_flax.study.groups import Groups, Member
from attn_flax.study.performance import PredictionsOfRuns
from attn_flax.study.pictures import Picturer, choose
from attn_flax.study.scores import SeedImages, summarize
from attn_flax.tasks.task import Classes, Predictions
from attn_flax.training.checkpoints import read_weights
from attn_flax.training.experiment import Experiment, make_model, open_experiment
from attn_flax.training.scoring import Scorer

# The most images that are explained of a split that is not kept in memory, unless the config sets
# `report.images`.
_MOST_IMAGES = 2000
# The most validation masks that the best fixed map is made of.
_MOST_MASKS = 1000


class _Study(NamedTuple):
  """What the runs share, the network of each variant, and the runs that can be evaluated."""

  experiment: Experiment
  models: dict[str, Network]
  members: dict[str, list[Member]]
  baseline: str
  options: ReportConfig


class _Test(NamedTuple):
  """The test images that may be explained.

  Attributes:
    position: [n], the positions of the images in the test split.
    images: the images.
  """

  position: np.ndarray
  images: Images


def measure(
  groups: Groups,
  baseline: str,
  options: ReportConfig,
  *,
  rates: Mapping[str, float] | None = None,
) -> Findings:
  """Evaluates, times and explains all runs.

  Args:
    groups: the runs by variant, checked by `groups.check_controlled`.
    baseline: the variant that the others are compared with.
    options: `config.report`.
    rates: the learning rate of each variant where a sweep chose it; None otherwise.

  Returns:
    Everything that a report is made of.

  Raises:
    UserError: where no run can be evaluated.
  """
  began = time.perf_counter()
  groups = _readable(groups)
  study = _open(groups, baseline, options)
  experiment, models = study.experiment, study.models
  predictions = _evaluate(study)
  class_names = experiment.dataset.class_names
  performances = performance.compare(experiment.task, predictions, baseline, class_names)
  found_costs = costs.measure(experiment, models, baseline, options.rounds)
  test = _load_test(experiment, options)
  explained: dict[str, dict[int, Explained]] = {}
  images: dict[int, SeedImages] = {}
  pictured: dict[str, Pictured] = {}
  shown = np.arange(0)
  classes = experiment.task.classes
  if classes is not None:  # Maps explain the output for a class.
    explained, images = _explain(study, classes, test, predictions)
    shown = choose(test.images.label, options.pictures, options.seed)
    pictured = _picture(study, classes, test, shown, predictions)
  own_maps = {
    name: mechanisms.own_map_kinds(model, experiment.image_shape) for name, model in models.items()
  }
  test_images = len(experiment.dataset.splits['test'])
  explanations = summarize(explained, images, test_images, baseline, own_maps)
  picture = test.images.take(shown)
  variants = [
    Variant(
      name=name,
      runs=[conditions.run_row(name, member, predictions, experiment) for member in members],
      mechanisms=mechanisms.mechanisms(models[name]) if name in models else None,
      shares=(
        mechanisms.augmented_shares(models[name], experiment.image_shape) if name in models else {}
      ),
      performance=performances.get(name),
      cost=found_costs.get(name),
      explanations=explanations.get(name),
      pictured=pictured.get(name),
    )
    for name, members in groups.items()
  ]
  seeds = {member.seed for runs in study.members.values() for member in runs}
  return Findings(
    task=experiment.task,
    baseline=baseline,
    variants=variants,
    dataset=experiment.config.data.name,
    class_names=class_names,
    conditions=conditions.conditions(experiment, rates, (time.perf_counter() - began) / 60),
    images=picture.image,
    labels=picture.label,
    masks=picture.mask,
    localized_images={seed: len(one.localized) for seed, one in images.items()},
    perturbed_images={seed: len(one.perturbed) for seed, one in images.items()},
    unexplained=sorted(seeds - images.keys()) if classes else (),
    steps=options.steps,
  )


def _readable(groups: Groups) -> Groups:
  """The runs, where those whose checkpoint cannot be read have the reason as their `error`."""

  def checked(member: Member) -> Member:
    if not member.error:
      try:
        read_weights(member.folder)
      except UserError as error:
        return member._replace(error=str(error))
    return member

  return {name: [checked(member) for member in members] for name, members in groups.items()}


def _open(groups: Groups, baseline: str, options: ReportConfig) -> _Study:
  members = {name: [m for m in runs if not m.error] for name, runs in groups.items()}
  members = {name: runs for name, runs in members.items() if runs}
  if not members:
    reasons = ', '.join(f'{member.folder}: {member.error}' for member in groups[baseline])
    raise UserError(f'no run can be evaluated ({reasons}); train one')
  # The baseline is timed even when all its runs have failed: costs are relative to it.
  begun = [member.config for member in groups[baseline] if member.config is not None]
  experiment = open_experiment(begun[0], trains=False)
  num_classes = len(experiment.dataset.class_names)
  configs = {baseline: begun[0]}
  for name, (member, *_) in members.items():
    if member.config is not None:
      configs[name] = member.config
  models = {name: make_model(config.model, num_classes) for name, config in configs.items()}
  return _Study(experiment, models, members, baseline, options)


def _evaluate(study: _Study) -> dict[str, dict[int, Predictions]]:
  """The predictions of every run for all test images, {variant: {seed: predictions}}."""
  predictions: dict[str, dict[int, Predictions]] = {}
  for name in _progress(study.members, 'evaluating'):
    scorer = Scorer(study.experiment._replace(model=study.models[name]), 'test')
    for member in study.members[name]:
      _, found = scorer.score(read_weights(member.folder))
      predictions.setdefault(name, {})[member.seed] = found
  return predictions


def _load_test(experiment: Experiment, options: ReportConfig) -> _Test:
  """The test images, with masks, boxes and the best fixed map where the dataset has them."""
  config = experiment.config
  annotated = experiment.dataset.spec.annotated
  splits = ('validation', 'test') if annotated else ('test',)
  dataset = experiment.dataset
  if annotated:
    dataset = data.load(
      config.data.name,
      data_dir=config.data.dir,
      size=config.data.size,
      seed=config.data.seed,
      splits=splits,
      annotations=True,
    )
  test, height, width = dataset.splits['test'], *experiment.image_shape[:2]
  most = options.images or (_MOST_IMAGES if isinstance(test, Records) else len(test))
  index = _draw(len(test), most, options.seed)
  taken = test.take(index)
  fixed = None
  if annotated:
    validation = dataset.splits['validation']
    chosen = _draw(len(validation), _MOST_MASKS, options.seed)
    mask, box = _regions(validation.take(chosen), height, width)
    region = box if mask is None else mask
    fixed = None if region is None else np.asarray(best_fixed_map(jnp.asarray(region)))
  return _Test(index, Images(taken.image, taken.label, *_regions(taken, height, width), fixed))


def _regions(split: Split, height: int, width: int) -> tuple[np.ndarray | None, np.ndarray | None]:
  """Masks and boxes [n, H, W] bool of a split, each None where the split has none."""
  mask = None if split.mask is None else split.mask[..., 0]
  box = None if split.bbox is None else np.asarray(box_mask(split.bbox, height, width))
  return mask, box


def _draw(count: int, most: int, seed: int) -> np.ndarray:
  """All of `count` positions or, where these are more than `most`, a sorted random choice."""
  if count <= most:
    return np.arange(count)
  return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _explain(
  study: _Study, classes: Classes, test: _Test, predictions: PredictionsOfRuns
) -> tuple[dict[str, dict[int, Explained]], dict[int, SeedImages]]:
  """Explains, for each seed, the images that all variants predict correctly with this seed."""
  normalize = jax.jit(study.experiment.augmentation.evaluate)
  explainers = {
    name: Explainer(model, normalize, study.options.steps, study.experiment.platform)
    for name, model in study.models.items()
  }
  explained: dict[str, dict[int, Explained]] = {}
  images: dict[int, SeedImages] = {}
  for seed in sorted({member.seed for runs in study.members.values() for member in runs}):
    runs = {name: m for name, ms in study.members.items() for m in ms if m.seed == seed}
    right = [classes.right(predictions[name][seed])[test.position] for name in runs]
    common = np.flatnonzero(np.all(right, axis=0))
    if not len(common):
      continue
    few = _draw(len(common), study.options.perturbed_images, study.options.seed + seed)
    images[seed] = SeedImages(test.position[common], test.position[common[few]])
    key = jax.random.fold_in(jax.random.key(study.options.seed), seed)
    for name in _progress(runs, f'explaining seed {seed}'):
      explained.setdefault(name, {})[seed] = explainers[name].explain(
        read_weights(runs[name].folder),
        test.images.take(common),
        few,
        key,
      )
  return explained, images


def _picture(
  study: _Study,
  classes: Classes,
  test: _Test,
  shown: np.ndarray,
  predictions: PredictionsOfRuns,
) -> dict[str, Pictured]:
  """Predictions and maps of one run of each variant, if possible of a seed that all have."""
  normalize = jax.jit(study.experiment.augmentation.evaluate)
  pictured = {}
  seeds = [{member.seed for member in members} for members in study.members.values()]
  common = set.intersection(*seeds)
  for name in _progress(study.members, 'picturing'):
    members = study.members[name]
    member = next((one for one in members if one.seed in common), members[0])
    picturer = Picturer(study.models[name], normalize, classes)
    pictured[name] = picturer.picture(
      read_weights(member.folder),
      member.seed,
      shown,
      test.images,
      classes.outputs(predictions[name][member.seed])[test.position[shown]],
      study.options.query,
    )
  return pictured


def _progress(items: Iterable[str], what: str) -> Iterable[str]:
  """The items, with a progress bar on a terminal and a line elsewhere."""
  if not sys.stderr.isatty():
    print(what, flush=True)
    return items
  return tqdm.tqdm(list(items), desc=what, dynamic_ncols=True)

"""Evaluates, times and explains the runs of a study: from checkpoints to `Findings`."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from attn_flax import data
from attn_flax.data import Records, Split
from attn_flax.errors import UserError
from attn_flax.explain.controls import best_fixed_map
from attn_flax.explain.maps import box_mask
from attn_flax.report import published
from attn_flax.study import accuracy, conditions, costs
from attn_flax.study.explain import Explained, Explainer, Images
from attn_flax.study.findings import Findings, Pictured, Variant
from attn_flax.study.groups import Groups, Member
from attn_flax.study.pictures import Picturer, choose
from attn_flax.study.scores import SeedImages, summarise
from attn_flax.training.checkpoints import read_best, read_weights
from attn_flax.training.experiment import Experiment, make_model, open_experiment
from attn_flax.training.scoring import Scorer

# Images that are explained, unless told, where they do not fit into memory.
_MOST_IMAGES = 2000
# Validation masks that the best fixed map is made of, at most.
_MOST_MASKS = 1000


class _Study(NamedTuple):
  """What all runs share, the network of each variant, and the runs that can be evaluated."""

  experiment: Experiment
  models: dict[str, nn.Module]
  members: dict[str, list[Member]]
  baseline: str
  options: Any


class _Test(NamedTuple):
  """The test images that may be explained.

  Attributes:
    position: where each stands in the test split.
    images: the images.
  """

  position: np.ndarray
  images: Images


def measure(
  groups: Groups,
  baseline: str,
  options: Any,
  *,
  rates: Mapping[str, float] | None = None,
) -> Findings:
  """Everything that a report holds.

  Args:
    groups: the runs by variant, checked by `groups.check_controlled`.
    baseline: the variant that the others are compared with.
    options: `config.report`.
    rates: learning rates that a sweep chose.

  Raises:
    UserError: where no run can be evaluated.
  """
  began = time.perf_counter()
  groups = _readable(groups)
  study = _open(groups, baseline, options)
  config = study.experiment.config
  logits, labels = _evaluate(study)
  papers = {name: conditions.mechanisms(model) for name, model in study.models.items()}
  accuracies = accuracy.compare(logits, labels, baseline)
  found_costs = costs.measure(study.experiment, study.models, baseline, options.rounds)
  test = _load_test(study.experiment, options)
  explained, images = _explain(study, test, logits)
  shape = study.experiment.image_shape
  own_maps = {n: conditions.describe_own_map(model, shape) for n, model in study.models.items()}
  mechanisms = {n: conditions.describe(model, shape) for n, model in study.models.items()}
  explanations = summarise(explained, images, len(labels), baseline, own_maps)
  shown = choose(test.images.label, options.pictures, options.seed)
  pictured = _picture(study, test, shown, logits)
  picture = test.images.take(shown)
  return Findings(
    title=f'Attention in {config.model.name} on {config.data.name}',
    baseline=baseline,
    variants=[
      Variant(
        name=name,
        mechanism=mechanisms.get(name, ''),
        runs=[
          conditions.run_row(name, member, logits, labels, study.experiment.updates_per_epoch)
          for member in members
        ],
        accuracy=accuracies.get(name),
        cost=found_costs.get(name),
        explanations=explanations.get(name),
        pictured=pictured.get(name),
        # Of a mixture no paper's row says anything.
        published=published.rows(papers[name] if len(papers.get(name, ())) == 1 else ()),
      )
      for name, members in groups.items()
    ],
    dataset=config.data.name,
    test_images=len(labels),
    class_names=study.experiment.dataset.class_names,
    conditions=conditions.conditions(study.experiment, groups, rates)
    | {'measured in': f'{(time.perf_counter() - began) / 60:.1f} minutes'},
    images=picture.image,
    labels=picture.label,
    masks=picture.mask,
    localised_images={seed: len(one.localised) for seed, one in images.items()},
    perturbed_images={seed: len(one.perturbed) for seed, one in images.items()},
    steps=options.steps,
    notes=[
      *conditions.notes(groups),
      *accuracy.unsteady(accuracies),
      *costs.disagreements(found_costs, baseline),
      *_unexplained(study, images),
    ],
  )


def _readable(groups: Groups) -> Groups:
  """The runs, those whose checkpoint cannot be read with the reason."""

  def checked(member: Member) -> Member:
    if not member.error:
      try:
        read_best(member.folder)
      except UserError as error:
        return member._replace(error=str(error))
    return member

  return {name: [checked(member) for member in members] for name, members in groups.items()}


def _open(groups: Groups, baseline: str, options: Any) -> _Study:
  members = {name: [m for m in runs if not m.error] for name, runs in groups.items()}
  members = {name: runs for name, runs in members.items() if runs}
  if not members:
    reasons = ', '.join(f'{member.folder}: {member.error}' for member in groups[baseline])
    raise UserError(f'no run can be evaluated ({reasons}); train one')
  # Of the baseline the costs are needed also where all its runs have failed.
  begun = [member.config for member in groups[baseline] if member.config is not None]
  experiment = open_experiment(begun[0], trains=False)
  num_classes = len(experiment.dataset.class_names)
  configs = {baseline: begun[0]} | {name: runs[0].config for name, runs in members.items()}
  models = {name: make_model(config.model, num_classes) for name, config in configs.items()}
  return _Study(experiment, models, members, baseline, options)


def _evaluate(study: _Study) -> tuple[dict[str, dict[int, np.ndarray]], np.ndarray]:
  """Logits of every run on all test images, {variant: {seed: [n, K]}}, and the labels [n]."""
  logits: dict[str, dict[int, np.ndarray]] = {}
  for name in _progress(study.members, 'evaluating'):
    scorer = Scorer(study.experiment._replace(model=study.models[name]), 'test')
    for member in study.members[name]:
      _, found, labels = scorer.score(read_weights(member.folder))
      logits.setdefault(name, {})[member.seed] = found
  return logits, labels


def _load_test(experiment: Experiment, options: Any) -> _Test:
  """The test images with their masks and boxes, and the best fixed map, where there are any."""
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
  """Masks and boxes [n, H, W] bool of examples, each None where there are none."""
  mask = None if split.mask is None else split.mask[..., 0]
  box = None if split.bbox is None else np.asarray(box_mask(split.bbox, height, width))
  return mask, box


def _draw(count: int, most: int, seed: int) -> np.ndarray:
  """Some of `count` positions, in order, drawn by chance where there are more than `most`."""
  if count <= most:
    return np.arange(count)
  return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _explain(
  study: _Study, test: _Test, logits: Mapping[str, Mapping[int, np.ndarray]]
) -> tuple[dict[str, dict[int, Explained]], dict[int, SeedImages]]:
  """Explains, for each seed, the images that all its variants classify correctly."""
  normalise = jax.jit(study.experiment.augmentation.evaluate)
  explainers = {
    name: Explainer(model, normalise, study.options.steps) for name, model in study.models.items()
  }
  explained: dict[str, dict[int, Explained]] = {}
  images: dict[int, SeedImages] = {}
  for seed in sorted({member.seed for runs in study.members.values() for member in runs}):
    runs = {name: m for name, ms in study.members.items() for m in ms if m.seed == seed}
    right = [accuracy.hits(logits[name][seed][test.position], test.images.label) for name in runs]
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
  test: _Test,
  shown: np.ndarray,
  logits: Mapping[str, Mapping[int, np.ndarray]],
) -> dict[str, Pictured]:
  """What one run of each variant, of a seed that all have if any, says about some images."""
  normalise = jax.jit(study.experiment.augmentation.evaluate)
  pictured = {}
  seeds = [{member.seed for member in members} for members in study.members.values()]
  common = set.intersection(*seeds)
  for name in _progress(study.members, 'picturing'):
    members = study.members[name]
    member = next((one for one in members if one.seed in common), members[0])
    picturer = Picturer(study.models[name], normalise)
    pictured[name] = picturer.picture(
      read_weights(member.folder),
      member.seed,
      shown,
      test.images,
      logits[name][member.seed][test.position[shown]],
      tuple(study.options.query),
    )
  return pictured


def _unexplained(study: _Study, images: Mapping[int, SeedImages]) -> list[str]:
  """A sentence for each seed without an image that all variants classify correctly."""
  seeds = {member.seed for runs in study.members.values() for member in runs}
  return [
    f'No test image is classified correctly by all variants of seed {seed}: nothing is explained.'
    for seed in sorted(seeds - images.keys())
  ]


def _progress(items: Iterable[str], what: str) -> Iterable[str]:
  """The items, with a progress bar on a terminal and a line elsewhere."""
  if not sys.stderr.isatty():
    print(what, flush=True)
    return items
  return tqdm.tqdm(list(items), desc=what, dynamic_ncols=True)

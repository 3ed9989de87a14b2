"""Which runs a study is made of, and where they lie."""

import pathlib
from typing import NamedTuple

from attn_flax.errors import MOST_SEED, UserError, check_choice, check_pair, check_range
from attn_flax.study.config import ReportConfig, StudyConfig
from attn_flax.training.config import Config
from attn_flax.training.run_folder import check_name

# Rows of one figure that can still be looked at.
_MOST_PICTURES = 40


class Planned(NamedTuple):
  """One run of a study.

  Attributes:
    variant: name of its variant.
    seed: its seed.
    config: its configuration, as `configs/base.py` makes them.
    folder: its run folder.
  """

  variant: str
  seed: int
  config: Config
  folder: pathlib.Path

  @property
  def name(self) -> str:
    """Its name, such as 'eca/seed1'."""
    return f'{self.variant}/seed{self.seed}'


def variants(study: StudyConfig) -> list[str]:
  """Names of a study's variants, the baseline first.

  Raises:
    UserError: for names that are no variants, or a study of one variant.
  """
  check_choice('study baseline', study.baseline, study.variants)
  selected = list(study.variants) if study.select is None else study.select
  for name in selected:
    check_choice('study variant', name, study.variants)
  others = [name for name in study.variants if name in selected and name != study.baseline]
  if not others:
    raise UserError(f'the study has one variant, {study.baseline!r}; name another to compare with')
  return [study.baseline, *others]


def plan(
  study: StudyConfig, workdir: pathlib.Path, rates: dict[str, float] | None = None
) -> list[Planned]:
  """The runs of a study, one seed of all variants after the other.

  Args:
    study: what `configs/compare.py` makes.
    workdir: its folder; runs lie in `<variant>/seed<k>`.
    rates: learning rate of each variant, by sweep; without one it is that of `study.base`.

  Raises:
    UserError: for an impossible study, see `variants`; seeds that repeat; or, where
      `study.only` names one run, no such run.
  """
  names = variants(study)
  seeds = _tuple('seeds', study.seeds)
  for seed in seeds:
    check_range('seeds', seed, 0, MOST_SEED, whole=True)
  check_range('sweep.seed', study.sweep.seed, 0, MOST_SEED, whole=True)
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise UserError(f'seeds={seeds} must be different numbers of 0 or more; try 0,1,2')
  runs = [
    Planned(
      name,
      seed,
      run_config(study, name, seed, None if rates is None else rates.get(name)),
      workdir / name / f'seed{seed}',
    )
    for seed in seeds
    for name in names
  ]
  for run in runs:
    check_name(run.folder)
  if study.only is None:
    return runs
  check_choice('only', study.only, [run.name for run in runs])
  return [run for run in runs if run.name == study.only]


def check_report(options: ReportConfig) -> None:
  """Refuses options, `config.report`, that would end a report only after all its runs.

  Raises:
    UserError: it names the field.
  """
  for field in ('perturbed_images', 'steps', 'rounds'):
    check_range(f'report.{field}', options[field], 1, whole=True)
  check_range('report.pictures', options.pictures, 1, _MOST_PICTURES, whole=True)
  if options.images is not None:
    check_range('report.images', options.images, 1, whole=True)
  check_range('report.seed', options.seed, 0, MOST_SEED, whole=True)
  for i, share in enumerate(check_pair('report.query', options.query)):
    check_range(f'report.query[{i}]', share, 0, 1)


def plan_sweep(study: StudyConfig, workdir: pathlib.Path) -> list[Planned]:
  """The runs that choose each variant's learning rate; empty where the study tries none.

  Raises:
    UserError: for a sweep with a seed of the study, or with fewer than two rates.
  """
  rates = study.sweep.lr_per_256
  if rates is None:
    return []
  for rate in _tuple('sweep.lr_per_256', rates):
    check_range('sweep.lr_per_256', rate, above=0)
  if len(set(rates)) < 2:
    raise UserError(f'sweep.lr_per_256={rates} leaves nothing to choose from; give two or more')
  if study.sweep.seed in tuple(study.seeds):
    raise UserError(
      f'sweep.seed={study.sweep.seed} is also one of seeds={tuple(study.seeds)}; choose another, '
      'so that no run decides about itself'
    )
  return [
    Planned(
      name,
      study.sweep.seed,
      run_config(study, name, study.sweep.seed, rate),
      workdir / name / f'sweep_lr{rate:g}',
    )
    for name in variants(study)
    if study.only is None or study.only.startswith(f'{name}/')
    for rate in rates
  ]


def _tuple(what: str, value: object) -> tuple:
  if not isinstance(value, tuple | list):
    raise UserError(f'{what}={value!r} is impossible; give numbers, such as 0,1,2')
  return tuple(value)


def run_config(study: StudyConfig, variant: str, seed: int, rate: float | None) -> Config:
  """The configuration of one run: the shared one with its own attention, seed and rate."""
  config = study.base.copy_and_resolve_references()
  with config.unlocked():
    config.model.attention = study.variants[variant]
  config.seed = seed
  if rate is not None:
    config.optimizer.lr_per_256 = rate
  return config

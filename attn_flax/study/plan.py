"""The runs of a study and their folders."""

import pathlib
from typing import NamedTuple

from attn_flax.errors import MOST_SEED, UserError, check_choice, check_pair, check_range
from attn_flax.study.config import ReportConfig, StudyConfig
from attn_flax.training.config import Config
from attn_flax.training.run_folder import check_name

# The most rows of a figure; more would be too small to read.
_MOST_PICTURES = 40


def run_name(variant: str, seed: int) -> str:
  """The name of a run, and its folder in that of the study, such as 'eca/seed1'."""
  return f'{variant}/{seed_folder(seed)}'


def seed_folder(seed: int | str) -> str:
  """The folder of a run in that of its variant; of all runs for '*', as a pattern."""
  return f'seed{seed}'


class Planned(NamedTuple):
  """One run of a study.

  Attributes:
    variant: name of its variant.
    seed: its seed.
    config: its config, as made by `configs/base.py`.
    folder: its run folder.
  """

  variant: str
  seed: int
  config: Config
  folder: pathlib.Path

  @property
  def name(self) -> str:
    """The name of the run, see `run_name`."""
    return run_name(self.variant, self.seed)


def variants(study: StudyConfig) -> list[str]:
  """Names of a study's variants, the baseline first.

  Raises:
    UserError: for unknown names in `baseline` or `select`, or where only the baseline is left.
  """
  check_choice('study baseline', study.baseline, study.variants)
  selected = list(study.variants) if study.select is None else study.select
  for name in selected:
    check_choice('study variant', name, study.variants)
  others = [name for name in study.variants if name in selected and name != study.baseline]
  if not others:
    raise UserError(
      f'the study has no variant but its baseline {study.baseline}; select another to compare with'
    )
  return [study.baseline, *others]


def plan(
  study: StudyConfig, workdir: pathlib.Path, rates: dict[str, float] | None = None
) -> list[Planned]:
  """The runs of a study: all variants with the first seed, then all with the second, and so on.

  Args:
    study: the config of the study, as made by `configs/compare.py`.
    workdir: the folder of the study; runs are in `<variant>/seed<k>`.
    rates: learning rate by variant, as `train.sweep` chose it; None: that of `study.base`.

  Raises:
    UserError: for variants as in `variants`, impossible or repeated seeds, a folder whose name
      checkpoints cannot have, or where `study.only` names no run of the study.
  """
  names = variants(study)
  seeds = _tuple('seeds', study.seeds)
  for seed in seeds:
    check_range('seeds', seed, 0, MOST_SEED, whole=True)
  check_range('sweep.seed', study.sweep.seed, 0, MOST_SEED, whole=True)
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise UserError(f'seeds={seeds} has no seed or repeats one; give different ones, such as 0,1,2')
  runs = [
    Planned(
      name,
      seed,
      run_config(study, name, seed, None if rates is None else rates.get(name)),
      workdir / run_name(name, seed),
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
  """Checks `config.report` before the runs are trained, as the report is made after them.

  Raises:
    UserError: for an impossible value; names the field.
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
  """The runs of the sweep that chooses each variant's learning rate; [] without a sweep.

  Raises:
    UserError: for impossible rates or fewer than two, or where the sweep's seed is also one of the
      study.
  """
  rates = study.sweep.lr_per_256
  if rates is None:
    return []
  for rate in _tuple('sweep.lr_per_256', rates):
    check_range('sweep.lr_per_256', rate, above=0)
  if len(set(rates)) < 2:
    raise UserError(
      f'sweep.lr_per_256={rates} has fewer than two different rates; give two or more'
    )
  if study.sweep.seed in tuple(study.seeds):
    raise UserError(
      f'sweep.seed={study.sweep.seed} is also one of seeds={tuple(study.seeds)}; choose another, '
      'so that the runs that choose a rate are not those that are compared'
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
  """The config of one run: `study.base` with the run's own attention, seed and learning rate.

  Args:
    study: the config of the study.
    variant: name of the variant.
    seed: the seed.
    rate: `optimizer.lr_per_256`; None: that of `study.base`.
  """
  config = study.base.copy_and_resolve_references()
  with config.unlocked():
    config.model.attention = study.variants[variant]
  config.seed = seed
  if rate is not None:
    config.optimizer.lr_per_256 = rate
  return config

"""A study: trains what is missing, evaluates, times and explains every run, and writes the report.

`python main.py --config=configs/compare.py --mode=compare` is `compare`; with `--workdirs` it is
`compare_runs`.
"""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from attn_flax.errors import UserError
from attn_flax.report.write import write_report
from attn_flax.study import groups, measure, plan, train


def compare(study: ConfigDict, workdir: pathlib.Path) -> None:
  """Trains the runs of a study that are missing, and writes its report into the study's folder.

  Args:
    study: what `configs/compare.py` makes.
    workdir: the study's folder; runs lie in `<variant>/seed<k>`.

  Raises:
    UserError: for a study that cannot be run, or whose runs cannot be compared.
    Stopped: after SIGTERM or an interrupt; the same command then goes on from there.
  """
  plan.check_report(study.report)
  plan.plan(study, workdir)  # Mistakes show before the sweep.
  rates = train.sweep(study, workdir)
  planned = plan.plan(study, workdir, rates)
  train.check(planned)
  errors = train.train_missing(planned)
  if study.only is not None:
    if errors:
      raise UserError(f'{study.only} failed: {errors[study.only]}')
    return
  found = groups.of_plan(planned, errors)
  groups.check_controlled(
    found, study.baseline, also=() if rates is None else ('optimizer.lr_per_256',)
  )
  findings = measure.measure(found, study.baseline, study.report, rates=rates)
  write_report(findings, workdir)


def compare_runs(
  folders: Sequence[pathlib.Path], options: ConfigDict, workdir: pathlib.Path
) -> None:
  """Writes a report on runs that exist, into a folder.

  Args:
    folders: run folders, or folders of studies or variants; runs that differ in the seed alone are
      one variant.
    options: `config.report` of `configs/compare.py`.
    workdir: where the report goes.

  Raises:
    UserError: for folders without runs, or runs that differ in more than attention and seed.
  """
  plan.check_report(options)
  found, baseline = groups.of_folders(folders)
  groups.check_controlled(found, baseline)
  findings = measure.measure(found, baseline, options)
  write_report(findings, workdir)

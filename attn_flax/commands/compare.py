"""A study: trains what is missing, evaluates, times and explains every run, and writes the report.

`python main.py --config=configs/compare.py --mode=compare` is `compare`; with `--workdirs` it is
`compare_runs`.
"""

import contextlib
import pathlib
from collections.abc import Sequence

from absl import flags

from attn_flax.commands import configs
from attn_flax.commands.workdir import workdir
from attn_flax.errors import UserError
from attn_flax.report import pages
from attn_flax.report.write import write_report
from attn_flax.study import groups, measure, plan, train
from attn_flax.study.config import ReportConfig, StudyConfig
from attn_flax.tasks.names import find_task
from attn_flax.training.lock import locked


def run(values: flags.FlagValues) -> None:
  """Trains and reports on a study, or reports on runs that exist."""
  if values.workdirs:
    folder = pathlib.Path(values.workdir or 'runs/report')
    options = configs.load('compare') if values.config is None else values.config
    if 'report' not in options:
      raise UserError(
        'with --workdirs, a config must be a study, which holds options of the report; leave out '
        '--config, or name a study such as --config=compare'
      )
    configs.check_fields(
      values, r'report\..*', 'together with --workdirs, whose runs exist; leave one of the two out'
    )
    compare_runs([pathlib.Path(name) for name in values.workdirs], options.report, folder)
  else:
    if values.config is None or 'variants' not in values.config:
      raise UserError(
        '--mode=compare needs a study, such as --config=compare, or run folders, '
        '--workdirs=runs/a,runs/b'
      )
    folder = workdir(values)
    compare(values.config, folder)
    if values.config.only is not None:
      print(f'{values.config.only} is trained; without --config.only, the report is written')
      return
  print(f'the report is {folder}/report.html')


def compare(study: StudyConfig, folder: pathlib.Path) -> None:
  """Trains the runs of a study that are missing, and writes its report into the study's folder.

  Args:
    study: the config, as `configs/compare.py` makes it.
    folder: the study's folder; runs are in `<variant>/seed<k>`.

  Raises:
    UserError: the study cannot be run, or its runs cannot be compared.
    Stopped: after SIGTERM or an interrupt; the same command then continues from there.
  """
  plan.check_report(study.report)
  plan.plan(study, folder)  # Raises errors before the sweep.
  # With `only`, runs of a study may be trained at the same time, each under its own folder's lock.
  with locked(folder) if study.only is None else contextlib.nullcontext():
    _compare(study, folder)


def _compare(study: StudyConfig, folder: pathlib.Path) -> None:
  rates = train.sweep(study, folder)
  planned = plan.plan(study, folder, rates)
  pages.check(train.check(planned))
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
  write_report(findings, folder)


def compare_runs(
  folders: Sequence[pathlib.Path], options: ReportConfig, folder: pathlib.Path
) -> None:
  """Writes a report on runs that exist, into a folder.

  Args:
    folders: run folders, or folders of studies or variants; runs that differ only in the seed are
      one variant.
    options: `config.report` of `configs/compare.py`.
    folder: the folder of the report.

  Raises:
    UserError: a folder holds no runs, runs differ in more than attention and seed, or the report
      has no pages for their task.
  """
  plan.check_report(options)
  with locked(folder):
    _report(folders, options, folder)


def _report(folders: Sequence[pathlib.Path], options: ReportConfig, folder: pathlib.Path) -> None:
  found, baseline = groups.of_folders(folders)
  config = groups.check_controlled(found, baseline)
  pages.check(find_task(config.task))
  findings = measure.measure(found, baseline, options)
  write_report(findings, folder)

"""The command line: `python main.py --config=configs/eca.py`; see README.md."""

import hashlib
import json
import pathlib
import sys

from absl import flags, logging
from ml_collections import config_flags

from attn_flax.errors import UserError, check_choice
from attn_flax.training import allocator


def _define_flags(argv: list[str]) -> flags.FlagValues:
  """The flags, on values of their own, so that `run` may be called more than once."""
  fv = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file with an optional argument, such as configs/eca.py:resnet18,smoke; its fields are '
    'set by --config.<field>=<value>.',
    flag_values=fv,
    sys_argv=argv,
  )
  flags.DEFINE_enum('mode', 'train', list(_MODES), 'What to do.', flag_values=fv)
  flags.DEFINE_string('workdir', None, 'Run folder; default: runs/<config>.', flag_values=fv)
  flags.DEFINE_string('split', 'test', 'Split that --mode=evaluate scores.', flag_values=fv)
  flags.DEFINE_bool(
    'distributed', False, 'Join the other processes of a pod or cluster.', flag_values=fv
  )
  flags.DEFINE_string(
    'torch', None, 'PyTorch weights (.pth, .pth.tar, .safetensors, .npz) to import.', flag_values=fv
  )
  flags.DEFINE_string(
    'attention_kwargs', '{}', 'JSON: what leaves no trace in the weights to import.', flag_values=fv
  )
  flags.DEFINE_list('models', ['resnet50'], 'Networks that --mode=cost counts.', flag_values=fv)
  flags.DEFINE_list(
    'attentions', None, 'Mechanisms that --mode=cost counts; default: none and all.', flag_values=fv
  )
  flags.DEFINE_integer('image_size', 224, 'Side of the images of --mode=cost.', flag_values=fv)
  flags.DEFINE_integer('num_classes', 1000, 'Classes of --mode=cost.', flag_values=fv)
  flags.DEFINE_enum('stride_in', None, ['3x3', '1x1'], 'Stride of bottlenecks.', flag_values=fv)
  flags.DEFINE_string(
    'published', None, 'CSV of printed costs to compare with in --mode=cost.', flag_values=fv
  )
  flags.DEFINE_list(
    'workdirs',
    None,
    'Folders of runs, of variants or of studies that --mode=compare reports on.',
    flag_values=fv,
  )
  flags.DEFINE_list(
    'images', None, 'Image files and folders for --mode=predict and --mode=explain.', flag_values=fv
  )
  flags.DEFINE_list(
    'methods', ['grad_cam', 'own_map'], 'Maps that --mode=explain makes.', flag_values=fv
  )
  flags.DEFINE_integer(
    'stage', None, 'Stage whose maps --mode=explain explains; default: the last.', flag_values=fv
  )
  flags.DEFINE_bool('help', False, 'Show this help.', short_name='h', flag_values=fv)
  return fv


# Fields of a study that choose among its runs or shape its report, and change no run.
_OF_NO_RUN = ('baseline', 'only', 'report', 'seeds', 'select')


def _workdir(fv: flags.FlagValues) -> pathlib.Path:
  """The folder asked for, or one that no command with another config shares."""
  if fv.workdir:
    return pathlib.Path(fv.workdir)
  if fv.config is None:
    raise UserError('neither --workdir nor --config is given; name a run folder or a config')
  path, _, argument = config_flags.get_config_filename(fv['config']).partition(':')
  parts = [pathlib.Path(path).stem, *argument.replace('=', '-').replace(',', ' ').split()]
  overrides = config_flags.get_override_values(fv['config'])
  if 'variants' in fv.config:  # More seeds or another picture do not make another study.
    overrides = {k: v for k, v in overrides.items() if k.partition('.')[0] not in _OF_NO_RUN}
  if overrides:
    text = json.dumps(overrides, sort_keys=True, default=str)
    parts.append(hashlib.sha256(text.encode()).hexdigest()[:8])
  return pathlib.Path('runs') / '-'.join(parts)


def _train(fv: flags.FlagValues) -> None:
  from attn_flax.training.loop import train
  from attn_flax.training.run_folder import load_config

  if fv.config is None and not fv.workdir:
    raise UserError('--mode=train needs a config; try --config=configs/eca.py')
  if fv.config is not None and 'variants' in fv.config:
    raise UserError('this config is a study of many runs; add --mode=compare')
  # A run folder alone goes on with its own config.
  config = load_config(_workdir(fv)) if fv.config is None else fv.config
  print(json.dumps(train(config, _workdir(fv)), indent=2))


def _evaluate(fv: flags.FlagValues) -> None:
  from attn_flax.commands.evaluate import evaluate_run

  print(json.dumps(evaluate_run(_workdir(fv), fv.split), indent=2))


def _import(fv: flags.FlagValues) -> None:
  if not fv.torch or not fv.workdir:
    raise UserError('--mode=import needs --torch=<weights> and --workdir=<folder>')
  from attn_flax.commands.import_torch import import_run
  from configs import base

  config = base.get_config() if fv.config is None else fv.config
  try:
    kwargs = json.loads(fv.attention_kwargs)
  except ValueError:
    raise UserError(
      f'--attention_kwargs={fv.attention_kwargs} is no JSON; write \'{{"pools": ["avg", "max"]}}\''
    ) from None
  result = import_run(pathlib.Path(fv.torch), config, pathlib.Path(fv.workdir), kwargs)
  print(json.dumps(result, indent=2))


def _explain(fv: flags.FlagValues) -> None:
  from attn_flax.commands.explain import explain_run

  if not fv.images:
    raise UserError('--mode=explain needs --images=<files and folders>')
  workdir = _workdir(fv)
  found = explain_run(workdir, fv.images, fv.methods, fv.stage)
  for name, reason in found['unreadable'].items():
    print(f'{name} cannot be read and is left out: {reason}', file=sys.stderr)
  print(f'{len(found["images"])} images explained in {workdir}/explanations, with their scores in')
  print(f'{workdir}/explanations.json')


def _predict(fv: flags.FlagValues) -> None:
  from attn_flax.commands.predict import predict_files

  if not fv.images:
    raise UserError('--mode=predict needs --images=<files and folders>')
  for path, answers in predict_files(_workdir(fv), fv.images):
    print(path)
    for name, probability in answers:
      print(f'  {probability:7.2%}  {name}')


def _compare(fv: flags.FlagValues) -> None:
  from attn_flax.commands.compare import compare, compare_runs
  from configs import compare as study

  if fv.workdirs:
    workdir = pathlib.Path(fv.workdir or 'runs/report')
    options = study.get_config() if fv.config is None else fv.config
    if 'report' not in options:
      raise UserError(
        '--workdirs takes the options of the report from a study; leave out --config, or name one '
        'such as configs/compare.py'
      )
    compare_runs([pathlib.Path(folder) for folder in fv.workdirs], options.report, workdir)
  else:
    if fv.config is None or 'variants' not in fv.config:
      raise UserError(
        '--mode=compare needs a study, such as --config=configs/compare.py, or run folders, '
        '--workdirs=runs/a,runs/b'
      )
    workdir = _workdir(fv)
    compare(fv.config, workdir)
    if fv.config.only is not None:
      print(f'{fv.config.only} is trained; without --config.only comes the report')
      return
  print(f'the report is {workdir}/report.html')


def _cost(fv: flags.FlagValues) -> None:
  from attn_flax import list_attention
  from attn_flax.costs import table as cost_table

  if fv.published:
    rows = cost_table.published_table(pathlib.Path(fv.published))
  else:
    attentions = ['none', *list_attention()] if fv.attentions is None else fv.attentions
    fields = {'num_classes': fv.num_classes, 'image_size': fv.image_size}
    if fv.stride_in:
      fields['stride_in'] = fv.stride_in
    rows = cost_table.cost_table(fv.models, attentions, **fields)
  print(cost_table.format_table(rows))


_MODES = {
  'train': _train,
  'evaluate': _evaluate,
  'predict': _predict,
  'explain': _explain,
  'compare': _compare,
  'import': _import,
  'cost': _cost,
}


def _fail(error: Exception) -> int:
  """Prints an error as one line; returns the exit code of a user's mistake."""
  text = str(error.args[0] if isinstance(error, KeyError) else error)
  if isinstance(error, AttributeError | KeyError):
    text = f'unknown config field {text}'
  if 'Traceback' in text:  # An error in a config file comes with its traceback; keep its last line.
    text = text.strip().splitlines()[-1].partition('Error: ')[2]
  print('error: ' + ' '.join(text.replace('\\n', ' ').replace('\\', '').split()), file=sys.stderr)
  return 2


def _check_config_exists(fv: flags.FlagValues) -> None:
  """`config_flags` reports a missing file late, and only when the config is read."""
  if not fv['config'].present:
    return
  path = pathlib.Path(config_flags.get_config_filename(fv['config']).partition(':')[0])
  if not path.is_file():
    folder = path.parent if path.parent.is_dir() else pathlib.Path('configs')
    check_choice('config', str(path), sorted(str(p) for p in folder.glob('*.py')))


def run(argv: list[str]) -> int:
  """Runs one command line; returns the exit code: 0, 2 for a user's mistake, 130 when stopped."""
  fv = _define_flags(argv)
  try:
    unknown = fv(argv)[1:]
    _check_config_exists(fv)
  # ml_collections raises these for a config that is missing, does not load, or has no such field.
  except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
    return _fail(error)
  if unknown:
    return _fail(UserError(f'unknown argument {unknown[0]!r}; flags begin with --, see --help'))
  if fv.help:
    print(__doc__, fv.main_module_help() or fv.get_help(), sep='\n\n')
    return 0
  logging.set_verbosity(logging.ERROR)
  from attn_flax.training.loop import Stopped

  try:
    if fv.distributed:
      import jax

      jax.distributed.initialize()
    _MODES[fv.mode](fv)
  except UserError as error:
    return _fail(error)
  except Stopped as stopped:
    print(f'{stopped}; the same command goes on from there', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  allocator.keep_freed_pages()  # Before the first thread starts.
  sys.exit(run(sys.argv))

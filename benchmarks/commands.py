"""The default command of each config: its top-1 accuracy and the time of an update.

    python benchmarks/commands.py
    python benchmarks/commands.py --small  # minutes, to see that everything works

Trains every config in `configs/` as `python main.py --config=configs/<name>.py` does, with seed 0;
finished runs are not trained again. Then the training steps of all configs are timed in turn. The
table is printed and written to benchmarks/results, as a CSV whose name holds the conditions.
"""

import pathlib

from attn_flax.training import allocator

if __name__ == '__main__':
  allocator.keep_freed_pages()  # Before the first thread starts.

from absl import app, flags, logging
from tables import write_csv

from attn_flax.commands.configs import load
from attn_flax.costs.table import format_table
from attn_flax.study import costs
from attn_flax.training.experiment import open_experiment
from attn_flax.training.loop import train

ROOT = pathlib.Path(__file__).resolve().parents[1]
STUDIES = ('base', 'compare', 'placement', 'ratio')
BASELINE = 'resnet'
_CONFIGS = flags.DEFINE_list('configs', [], 'Configs beside the baseline; empty: all.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed steps of each config.')
_RUNS = flags.DEFINE_string('runs', 'runs/commands', 'Folder of the run folders.')
_SMALL = flags.DEFINE_bool('small', False, 'Tiny networks and a few steps.')
_OUT = flags.DEFINE_string(
  'out', str(ROOT / 'benchmarks/results'), 'Folder of the CSV; empty: do not write it.'
)


def main(argv):
  """Trains and times the configs, prints the table and writes it."""
  del argv
  logging.set_verbosity(logging.ERROR)
  words = 'smoke' if _SMALL.value else ''
  stems = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))
  names = _CONFIGS.value or [name for name in stems if name not in (BASELINE, *STUDIES)]
  configs = {name: load(name, words) for name in [BASELINE, *names]}
  results = {
    name: train(config, pathlib.Path(_RUNS.value) / name) for name, config in configs.items()
  }
  experiments = {name: open_experiment(config) for name, config in configs.items()}
  models = {name: experiment.model for name, experiment in experiments.items()}
  measured = costs.measure(experiments[BASELINE], models, BASELINE, _ROUNDS.value)
  rows = []
  for name, cost in measured.items():
    step = cost.step_ms
    rows.append(
      {
        'config': name,
        'seed': configs[name].seed,
        'updates': results[name]['steps'],
        'top1': round(results[name]['test_top1'], 4),
        'params': cost.params,
        'macs': cost.macs,
        'update_ms': round(step.median, 1),
        'time_vs_baseline': round(step.ratio, 3),
        'quartiles': f'{step.low:.3f}..{step.high:.3f}',
      }
    )
  print(format_table(rows))
  write_csv(_OUT.value, 'commands', rows)


if __name__ == '__main__':
  app.run(main)

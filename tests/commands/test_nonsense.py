"""Impossible values: one line that names the field, exit code 2, and no folder is made."""

import pytest

from attn_flax.commands import command_line

ECA = '--config=configs/eca.py:smoke'
STUDY = '--config=configs/compare.py:smoke'
FIELDS = """
seed=9223372036854775808 seed=-1 data.seed=99999999999999999999999 data.name=~nouser/x
data.workers=100000 data.size=100000 data.max_pixels=0 init_from=~nouser log_every=0
train.steps=1000000000000000000000000000000 train.epochs=99999999999999999999999
train.batch_size=1000000000000 train.accumulate=3 train.ema_decay=1.0 train.ema_decay=inf
train.label_smoothing=1.0 train.clip_norm=0 train.clip_norm=nan
eval.batch_size=1000000000000000000000 eval.every_epochs=1000000000000000000000000
checkpoint.every_steps=1000000000000000000000000000
optimizer.lr_per_256=inf optimizer.lr_per_256=1e300 optimizer.momentum=1.0
optimizer.warmup_epochs=inf optimizer.weight_decay=nan
augment.mixup_alpha=inf augment.brightness=inf augment.crop_padding=40 augment.cutout=1000000
augment.randaugment=(1000000,9) augment.erasing_area=(0.1,) augment.size=100000
model.attention.branch.b=nan model.attention.branch.b=inf model.attention.branch.gamma=1e-320
model.depths=(None,1,1)
""".split()
STEPS = ['("a","b")', '(1e400,)', '(-1,)']
OF_STUDY = """
seeds=(9223372036854775808,) sweep.seed=9223372036854775808 report.seed=9223372036854775808
seeds=abc seeds=("a",) seeds=(None,) seeds=(1.5,) seeds=(-1,) sweep.seed=-3
sweep.lr_per_256=(None,1.0) sweep.lr_per_256=("a","b") sweep.lr_per_256=(0.0,1.0)
report.query=("a","b") report.query=(0.5,) report.images=0 report.steps=0 only=3
""".split()
COMMANDS = [
  *[(ECA, f'--config.{field}') for field in FIELDS],
  *[
    (ECA, '--config.optimizer.schedule=step', f'--config.optimizer.step_epochs={value}')
    for value in STEPS
  ],
  *[
    (ECA, '--config.optimizer.schedule=step', f'--config.optimizer.step_factor={value}')
    for value in ('-1', 'nan', 'inf')
  ],
  ('--config=configs/bam.py:smoke', '--config.model.attention.stage.dilation=1000000'),
  ('--config=configs/sasa.py:smoke', '--config.model.attention.conv.kernel_size=101'),
  *[('--mode=compare', STUDY, f'--config.{field}') for field in OF_STUDY],
  *[(f'--config={path}',) for path in ('README.md', 'configs', '/dev/null', 'tests/conftest.py')],
]
WITHOUT_FOLDER = [
  ('--mode=cost', '--models='),
  ('--mode=cost', '--attentions='),
  ('--mode=cost', '--published=/dev/null'),
  ('--mode=cost', '--published=README.md'),
  ('--mode=cost', '--image_size=0'),
  ('--mode=cost', '--num_classes=-1'),
]


def assert_refused(words, capsys):
  assert command_line.run(['main.py', *words]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


@pytest.mark.slow
@pytest.mark.parametrize('words', COMMANDS, ids=lambda words: words[-1].removeprefix('--config.'))
def test_nonsense_is_refused(words, small_dataset, tmp_path, capsys):
  line = assert_refused([*words, f'--workdir={tmp_path}/run'], capsys)
  name = words[-1].removeprefix('--config.').partition('=')[0].rpartition('.')[2]
  assert words[-1].startswith('--config=') or name in line or name.split('_')[0] in line, line
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('words', WITHOUT_FOLDER, ids=' '.join)
def test_costs_of_nothing_are_refused(words, capsys):
  assert_refused(words, capsys)

"""A study that never ran: findings with plausible numbers and names that need escaping."""

import dataclasses

import numpy as np

from attn_flax.study.explanations import SCORES, Explanations, Gates, Pictured, Score
from attn_flax.study.findings import (
  Conditions,
  Cost,
  Environment,
  Findings,
  Mean,
  Mechanism,
  Performance,
  Ratio,
  Recipe,
  Run,
  Variant,
)
from attn_flax.study.statistics import Estimate
from attn_flax.tasks.classification import classification

SCRIPT = '<script>alert(1)</script>'
PIPE = 'a|b'
NAMES = ('none', 'se', 'eca', 'cbam', 'bam', PIPE, SCRIPT)
VERDICTS = ('', 'better', 'no difference shown', 'worse', 'not enough seeds')
CLASSES = [str(digit) for digit in range(10)]
TEST_IMAGES = 2000
CONTROLS = ('random map', 'centered Gaussian', 'best fixed map', 'random weights')


def estimate(mean, reach, seeds=3):
  return Estimate(mean, reach / 2.5, 9.0, mean - reach, mean + reach, seeds)


def ratio(median, by):
  return Ratio(median * by, by, by * 0.97 if by != 1 else 1.0, by * 1.04 if by != 1 else 1.0)


def curves(rng, epochs=20):
  x = np.arange(1, epochs + 1)
  fall = 2.2 * np.exp(-x / 6) + rng.normal(0, 0.02, epochs)
  train = [
    (float(e), {'loss': float(v), 'top1': float(1 - v / 2.6)}) for e, v in zip(x, fall, strict=True)
  ]
  validation = [
    (float(e), {'loss': float(v * 1.1 + 0.1), 'top1': float(0.95 - v / 2.6)})
    for e, v in zip(x[1::2], fall[1::2], strict=True)
  ]
  return {'train': train, 'validation': validation}


def performance(rng, top1, verdict, difference, seeds=3):
  per_class = np.clip(top1 + rng.normal(0, 0.02, len(CLASSES)), 0, 1)
  counts = rng.dirichlet(np.full(9, 0.5), 10) * (1 - per_class[:, None]) * 600
  confusion = np.zeros((10, 10), int)
  for k in range(10):
    confusion[k, np.arange(10) != k] = np.round(counts[k])
    confusion[k, k] = 600 - confusion[k].sum()
  several = seeds > 1
  return Performance(
    seeds=seeds,
    best=Mean(top1, 0.00437 if several else None),
    further={
      'top5': Mean(0.9912345, 0.00123 if several else None),
      'calibration_error': Mean(0.02345, 0.00123 if several else None),
    },
    difference=difference,
    verdict=verdict,
    detectable=0.0123 if difference else None,
    arrays={'confusion': np.stack([confusion] * seeds)},
  )


def explanations(rng, index, masks, own_map):
  def score(name, kind):
    value = float(rng.uniform(0.3, 0.8))
    controls = {control: float(value * rng.uniform(0.4, 1.02)) for control in CONTROLS}
    sign = 1 if SCORES[name] else -1
    gains = {c: estimate(sign * (value - v), 0.05) for c, v in controls.items()}
    compared = index > 0 and kind == 'Grad-CAM'
    return Score(
      value=value,
      images=5123,
      controls=controls,
      gains=gains,
      difference=estimate(float(rng.normal(0, 0.03)), 0.02) if compared else None,
      verdict=VERDICTS[1 + index % 3] if compared else '',
    )

  names = [
    name for name in SCORES if masks or name not in ('pointing', 'energy_mask', 'energy_box', 'iou')
  ]
  kinds = ['Grad-CAM', *(['own map'] if own_map else [])]
  return Explanations(
    scores={kind: {name: score(name, kind) for name in names} for kind in kinds},
    empty=0.0123 * index,
    empty_random=0.0321,
    own_map=own_map,
  )


def blob(rng, count, size, height=1.0):
  y, x = np.mgrid[:size, :size] / (size - 1)
  centers = rng.uniform(0.2, 0.8, (count, 2))
  return np.stack([height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 0.08) for cy, cx in centers])


def pictured(rng, index, labels, name):
  count = len(labels)
  cams = blob(rng, count, 8, 0.5 + 0.3 * index)
  cams[1:2] = 0
  predicted = labels.copy()
  predicted[2:3] = (labels[2:3] + 1) % 10
  spatial, channel, attention = {}, {}, {}
  for stage, width in ((1, 16), (2, 32), (3, 64)):
    path = f'stage{stage}_block3/branch_attention'
    if name in ('cbam', 'bam'):
      spatial[f'{path}/spatial_gate'] = 0.3 + 0.2 * index / 4 * blob(rng, count, 32 >> (stage - 1))
    if name in ('se', 'eca', 'cbam'):
      mean = rng.beta(4, 4, width)
      channel[f'{path}/channel_gate'] = np.clip(
        mean + rng.normal(0, 0.02 * stage, (10, width)), 0, 1
      )
    if name == PIPE and stage > 1:
      weights = blob(rng, count, 32 >> (stage - 1)) + 0.1
      attention[f'{path}/weights'] = weights / weights.sum((1, 2), keepdims=True)
  return Pictured(
    seed=0,
    cams=cams,
    predicted=predicted,
    confidence=rng.uniform(0.5, 1, count),
    gates=Gates(spatial, channel, attention, query=(0.3, 0.6)),
  )


def conditions():
  return Conditions(
    network='resnet20',
    dtype='float32',
    side=32,
    examples={'train': 8000, 'validation': 1000, 'test': TEST_IMAGES},
    recipe=Recipe(
      updates=1250,
      epochs=10,
      batch_size=64,
      optimizer='sgd',
      lr_per_256=0.1,
      swept=None,
      schedule='cosine',
      warmup_epochs=1,
      weight_decay=5e-4,
      moving_average=False,
      further={'train.clip_norm': 1.0},
    ),
    measured=environment(),
    command='python main.py --config=configs/compare.py --mode=compare',
    minutes=12.3,
  )


def environment(**changes):
  known = Environment(
    device='cpu',
    commit='a41f0c3',
    python='3.11.7',
    packages={'jax': '0.10.2', 'flax': '0.12.8'},
    date='2026-11-20T10:00:00+00:00',
    device_count=1,
    cpu_count=2,
  )
  return dataclasses.replace(known, **changes)


def findings(names=NAMES, *, masks=True, pictures=6, seeds=3):
  """Findings about some variants, the first of them the baseline; the last one has a failed run."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 90, (pictures, 32, 32, 3), dtype=np.uint8)
  inside = blob(rng, pictures, 32) > 0.6
  images[inside] += np.uint8(120)
  labels = rng.integers(0, 10, pictures)
  variants = []
  for i, name in enumerate(names):
    verdict = VERDICTS[i % 4 or 2 * bool(i)] if seeds > 2 else 'not enough seeds' if i else ''
    difference = {'better': 0.0123, 'worse': -0.0141, 'no difference shown': 0.0012}.get(verdict)
    change = None if difference is None else estimate(difference + i * 1e-4, 0.0061)
    top1 = 0.9012345 + (change.mean if change else 0)
    runs = [
      Run(
        variant=name,
        seed=seed,
        folder=f'runs/compare/{i}-{seed}',
        command=f'python main.py --config=configs/{name}.py --config.seed={seed}',
        scores={'top1': top1 + 0.004 * (seed - 1), 'top5': 0.99, 'calibration_error': 0.02},
        curves=curves(rng),
        trained=environment(),
      )
      for seed in range(seeds)
    ]
    if i and i == len(names) - 1:
      broken = Run(name, seeds, 'runs/broken', 'python main.py --x', 'the loss is <nan> at step 12')
      runs.append(broken)
    by = 1 + 0.11 * i
    cost = Cost(
      params=272474 + 1234 * i,
      macs=41_000_000 + 54_321 * i,
      step_ms=ratio(123.456, by),
      latency_ms=ratio(4.56, by),
      throughput_ms=ratio(321.0, by),
      train_batch=128,
      eval_batch=256,
      peak_mb=512.3 * by,
      compile_seconds=12.34 + i,
    )
    own_map = {
      'cbam': ('gate',),
      'bam': ('gate',),
      PIPE: ('received',),
    }
    variants.append(
      Variant(
        name=name,
        runs=runs,
        mechanisms=[Mechanism(name, 'branch', (1, 2, 3))],
        performance=performance(rng, top1, verdict, change, seeds),
        cost=cost,
        explanations=explanations(rng, i, masks, own_map.get(name, ())),
        pictured=pictured(rng, i, labels, name),
      )
    )
  return Findings(
    task=classification(),
    baseline=names[0],
    variants=variants,
    dataset='cluttered_digits',
    class_names=CLASSES,
    conditions=conditions(),
    images=images,
    labels=labels,
    masks=inside if masks else None,
    localized_images={0: 1812, 1: 1801, 2: 1799} if masks else {},
    perturbed_images={0: 500, 1: 500, 2: 500},
  )


def without(found, **parts):
  """The findings with parts of every variant replaced, such as `cost=None`."""
  variants = [dataclasses.replace(variant, **parts) for variant in found.variants]
  return dataclasses.replace(found, variants=variants)

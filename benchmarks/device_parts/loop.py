"""The training loop, with its data, log and checks, against the bare training step."""

import json
import pathlib
import statistics
import tempfile

from part import Part


def main() -> None:
  """One row: images per second of the loop and of the step alone."""
  part = Part(__doc__)
  with part.trying('resnet20 on cluttered_digits', needs=10 if part.small else 40) as has_time:
    if has_time:
      part.add(what='resnet20 on cluttered_digits', **measure(part.small))


def measure(small: bool) -> dict[str, float]:
  """Images per second, by name."""
  import jax

  from attn_flax.commands.configs import load
  from attn_flax.costs.timing import interleave
  from attn_flax.training.experiment import open_experiment
  from attn_flax.training.loop import train
  from attn_flax.training.updates import compile_step

  config = load('resnet', 'smoke' if small else '')
  config.train.steps = 20 if small else 1000
  config.log_every = 5 if small else 100
  batch = config.train.batch_size
  with tempfile.TemporaryDirectory() as folder:
    train(config, pathlib.Path(folder) / 'run')
    lines = (pathlib.Path(folder) / 'run' / 'metrics.jsonl').read_text().splitlines()
  rates = [json.loads(line).get('images_per_second') for line in lines]
  loop = statistics.median([rate for rate in rates if rate is not None][1:])

  experiment = open_experiment(config)
  pipeline = experiment.train_pipeline()
  state = experiment.fresh_state(jax.random.key(0))
  key = jax.random.key(1)
  step = compile_step(experiment, pipeline, state, pipeline.abstract_batch(), key)
  inputs = next(pipeline.batches(0))
  held = [state]

  def steps():
    for _ in range(10):
      held[0], metrics = step(held[0], pipeline.constants, inputs, key)
    return metrics

  seconds = interleave({'step': steps}, rounds=2 if small else 20)['step']
  bare = 10 * batch / statistics.median(seconds)
  return {'loop_images_per_s': loop, 'step_images_per_s': bare, 'loop_vs_step': loop / bare}


if __name__ == '__main__':
  main()

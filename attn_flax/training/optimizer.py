"""Learning-rate schedules and optimizers from a config."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from attn_flax.errors import UserError, check_choice, check_range
from attn_flax.training.config import OptimizerConfig

OPTIMIZERS = ('sgd', 'adamw')
# Schedules whose rates up to now do not depend on the length of the run, which can be extended.
OPEN_ENDED = ('constant', 'step')
SCHEDULES = ('cosine', *OPEN_ENDED)

MOST_STEPS = 2**31 - 1  # Updates are counted in 32 bits.
MOST_FLOAT = 1e38  # A little below the largest number of 32 bits.
_LEAST_FLOAT = 1e-37  # Smaller numbers of 32 bits lose digits or become 0.

Schedule = Callable[[jax.typing.ArrayLike], jax.Array]


def make_schedule(
  config: OptimizerConfig, *, batch_size: int, updates: int, updates_per_epoch: int
) -> Schedule:
  """The learning rate as a function of the update's number.

  The peak is `lr_per_256 * batch_size / 256` (Goyal et al., 2017, https://arxiv.org/abs/1706.02677,
  section 2.1), reached by a linear warm-up.

  Args:
    config: `config.optimizer`.
    batch_size: images per update.
    updates: updates of the whole run.
    updates_per_epoch: updates per pass over the training split.

  Returns:
    The schedule: (number of an update, from 0) -> learning rate.

  Raises:
    UserError: for an unknown schedule, impossible numbers, or steps within the warm-up.
  """
  check_choice('schedule', config.schedule, SCHEDULES)
  check_range('optimizer.lr_per_256', config.lr_per_256, 0, MOST_FLOAT)
  check_range('optimizer.warmup_epochs', config.warmup_epochs, 0, MOST_STEPS)
  check_range('optimizer.step_factor', config.step_factor, 0, MOST_FLOAT)
  for i, epoch in enumerate(config.step_epochs):
    check_range(f'optimizer.step_epochs[{i}]', epoch, 0, MOST_STEPS)
  peak = config.lr_per_256 * batch_size / 256
  warmup = round(config.warmup_epochs * updates_per_epoch)
  if config.schedule == 'cosine':
    # In a short trial run, the warm-up takes at most a tenth of the updates.
    warmup = min(warmup, updates // 10) if updates < 2 * warmup else warmup
    after = optax.cosine_decay_schedule(peak, max(updates - warmup, 1))
  elif config.schedule == 'step':
    drops = {
      round(epoch * updates_per_epoch) - warmup: config.step_factor for epoch in config.step_epochs
    }
    if min(drops, default=1) <= 0:
      raise UserError(
        f'step_epochs={tuple(config.step_epochs)} begin within warmup_epochs='
        f'{config.warmup_epochs}; name later epochs, or shorten the warm-up'
      )
    after = optax.piecewise_constant_schedule(peak, drops)
  else:
    after = optax.constant_schedule(peak)
  if not warmup:
    return after
  # The warm-up begins at peak / warmup, because a first update with rate 0 would change nothing.
  ramp = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([ramp, after], [warmup])


def decays(params: optax.Params, decay_all: bool) -> optax.Params:
  """Which parameters decay, a tree of booleans: vectors and scalars do only with `decay_all`."""
  return jax.tree.map(lambda leaf: decay_all or jnp.ndim(leaf) > 1, params)


def make_optimizer(
  config: OptimizerConfig,
  schedule: Schedule,
  *,
  clip_norm: float | None = None,
  accumulate: int = 1,
) -> optax.GradientTransformation:
  """The optimizer of a config.

  Args:
    config: `config.optimizer`.
    schedule: the learning rate by update.
    clip_norm: largest global norm of the gradient; None: it is not clipped.
    accumulate: number of gradients that are averaged into one update.

  Raises:
    UserError: for an unknown optimizer, or impossible numbers.
  """
  check_choice('optimizer', config.name, OPTIMIZERS)
  check_range('optimizer.momentum', config.momentum, 0, below=1)
  check_range('optimizer.weight_decay', config.weight_decay, 0, MOST_FLOAT)
  if clip_norm is not None:
    check_range('train.clip_norm', clip_norm, _LEAST_FLOAT, MOST_FLOAT)

  def mask(params: optax.Params) -> optax.Params:
    return decays(params, config.decay_all)

  parts = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
  if config.name == 'sgd':
    parts += [
      optax.add_decayed_weights(config.weight_decay, mask),
      optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov),
    ]
  else:
    parts += [optax.adamw(schedule, weight_decay=config.weight_decay, mask=mask)]
  optimizer = optax.chain(*parts)
  if accumulate == 1:
    return optimizer
  # No scan over the parts of a batch: inside a loop, XLA's convolutions are slow on CPU.
  return optax.MultiSteps(optimizer, every_k_schedule=accumulate).gradient_transformation()


def freeze(
  optimizer: optax.GradientTransformation, stages: Sequence[int], num_stages: int
) -> optax.GradientTransformation:
  """An optimizer that does not change the parameters of some stages.

  Their gradients are set to zero, so that they do not count in the norm that is clipped.

  Args:
    optimizer: the optimizer of the other parameters.
    stages: the frozen stages of the network, counted from 1; 0 is the stem.
    num_stages: number of stages of the network; the norm after the last one belongs to it.
  """
  if not stages:
    return optimizer
  prefixes = tuple(f'stage{stage}_' if stage else 'stem_' for stage in stages)
  prefixes += ('last_norm',) if num_stages in stages else ()

  def is_frozen(params: optax.Params) -> optax.Params:
    def of(path: tuple[jax.tree_util.DictKey, ...], _: jax.Array) -> bool:
      return path[0].key.startswith(prefixes)

    return jax.tree_util.tree_map_with_path(of, params)

  zero = optax.masked(optax.set_to_zero(), is_frozen)
  # Zeroed again after the optimizer: weight decay changes parameters without a gradient, too.
  chained = optax.chain(optimizer, zero)

  def update(
    updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
  ) -> tuple[optax.Updates, optax.OptState]:
    learned, _ = zero.update(updates, zero.init(updates))
    return chained.update(learned, state, params)

  return optax.GradientTransformation(chained.init, update)

"""Whether this device computes what it should: networks, attention, and a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import random_step
import rule
from part import Part

from attn_flax import create_model, from_torch
from attn_flax.attention import products

# Compute dtype and precision of the products: of float32, the device's default may round to TF32.
_PRECISIONS = {
  'float32': ('float32', 'highest'),
  'float32_default': ('float32', None),
  'bfloat16': ('bfloat16', None),
}
_ATTENTION = ('none', 'se', 'eca', 'cbam', 'bam', 'aa')


def relative_error(value, exact) -> float:
  """The largest difference over the largest exact value."""
  exact = np.asarray(exact, np.float64)
  return float(np.abs(np.asarray(value, np.float64) - exact).max() / np.abs(exact).max())


def network(name: str) -> dict[str, float]:
  """Errors of the logits of a golden network against PyTorch's, by precision."""
  state, images, expected = rule.load(name)
  model, variables = from_torch(state)
  images = images.transpose(0, 2, 3, 1)
  errors = {}
  for label, (dtype, precision) in _PRECISIONS.items():
    own = model.clone(dtype=dtype)
    with jax.default_matmul_precision(precision):
      logits = jax.jit(lambda v, x, own=own: own.apply(v, x, train=False))(variables, images)
    errors[f'error_{label}'] = relative_error(logits, expected)
  return errors


def attention(side: int, dtype: str, implementation: str) -> float:
  """Error of attention with relative positions against NumPy in float64."""
  rng = np.random.default_rng(0)
  shape = (2, 4, side * side)
  q, k, v = (rng.normal(size=(*shape, size)) for size in (16, 16, 8))
  height, width = (rng.normal(size=(2 * side - 1, 16)) for _ in range(2))
  rows, columns = np.divmod(np.arange(side * side), side)
  bias = height[rows[None] - rows[:, None] + side - 1]
  bias = bias + width[columns[None] - columns[:, None] + side - 1]
  scores = np.einsum('nhqd,nhkd->nhqk', q, k) + np.einsum('nhqd,qkd->nhqk', q, bias)
  scores = np.exp(scores - scores.max(-1, keepdims=True))
  exact = np.einsum('nhqk,nhkd->nhqd', scores / scores.sum(-1, keepdims=True), v)
  q, k, v, height, width = (jnp.asarray(a, dtype) for a in (q, k, v, height, width))
  tables = products.Relative(height, width)

  @jax.jit
  def call(q, k, v):
    return products.attend(q, k, v, (side, side), relative=tables, implementation=implementation)

  with jax.default_matmul_precision('highest'):
    return relative_error(call(q, k, v).astype(jnp.float32), exact)


def training_step(mechanism: str, device: jax.Device) -> tuple[float, np.ndarray]:
  """The loss of a training step of ResNet-20 on a device, and how the parameters change."""
  name = None if mechanism == 'none' else mechanism
  model = create_model('resnet20', attention=name, num_classes=10)
  step, arguments = random_step.make(model, 16, 32, 10)
  state, inputs, key = jax.device_put(arguments, device)
  with jax.default_matmul_precision('highest'):
    after, metrics = jax.jit(step)(state, inputs, key)
  changes = jax.tree.map(
    lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), after.params, state.params
  )
  return float(metrics['loss']), np.concatenate([c.ravel() for c in jax.tree.leaves(changes)])


def main() -> None:
  """Checks as much as there is time for."""
  part = Part(__doc__)
  # Small ones first; the pools of the one left out do not show in its weights.
  names = [path.stem for path in rule.FOLDER.glob('*.npz') if 'lse' not in path.stem]
  names.sort(key=lambda name: ('18' not in name, name))
  for mechanism in _ATTENTION[:2] if part.small else _ATTENTION:
    what = f'training step, {mechanism}'
    with part.trying(what, needs=5) as has_time:
      if has_time:
        loss, changes = training_step(mechanism, jax.devices()[0])
        exact_loss, exact = training_step(mechanism, jax.devices('cpu')[0])
        part.add(
          what=what,
          error_float32=relative_error(changes, exact),
          error_loss=abs(loss - exact_loss) / abs(exact_loss),
        )
  for implementation in ('direct', 'blocks', 'fused'):
    what = f'attention, {implementation}'
    with part.trying(what, needs=5) as has_time:
      if has_time:
        dtypes = ('float32',) if part.small else ('float32', 'bfloat16')
        part.add(what=what, **{f'error_{d}': attention(8, d, implementation) for d in dtypes})
  for name in names[:1] if part.small else names:
    with part.trying(name, needs=10) as has_time:
      if has_time:
        part.add(what=name, **network(name))


if __name__ == '__main__':
  main()

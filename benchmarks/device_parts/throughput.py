"""Training and inference images per second, in turn with the same networks of timm."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import random_step
from part import Part

from attn_flax import count_macs, create_model
from attn_flax.costs.timing import interleave, peak_bytes, ratio

_ATTENTION = (None, 'se', 'eca', 'cbam', 'bam', 'aa')
_IN_TIMM = ('se', 'eca', 'cbam')  # BAM and AA are not there.
# Narrow networks take other fields than those of the papers, as in `configs/`.
_OF_NARROW = {
  'se': {'ratio': 4},
  'cbam': {'ratio': 4},
  'bam': {'ratio': 4},
  'aa': {'heads': 4, 'kappa': 0.5, 'upsilon': 0.25, 'min_key_dim': 1},
}
_COMPILE_S = 90  # Of torch.compile.
_ROUNDS = 15


def matrix_rate(size: int) -> float:
  """Multiply-adds a second of a bfloat16 matrix product."""
  a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.bfloat16)
  seconds = interleave({'product': lambda: product(a, b)}, rounds=10)['product']
  return size**3 / float(np.median(seconds))


@jax.jit
def product(a: jax.Array, b: jax.Array) -> jax.Array:
  """A matrix product."""
  return a @ b


def copy_rate(size: int) -> float:
  """Bytes a second that a copy of `size` bytes reads and writes."""
  x = jax.random.normal(jax.random.key(0), (size // 4,))
  copy = jax.jit(lambda x: x + 1)
  seconds = interleave({'copy': lambda: copy(x)}, rounds=10)['copy']
  return 2 * size / float(np.median(seconds))


def ours(name: str, attention: str | None, batch: int, side: int, dtype: str):
  """Calls that train and that classify a batch once, and their costs."""
  fields = {'stem': 'cifar'} if side < 64 else {}
  if name == 'resnet20':
    fields['attention_kwargs'] = _OF_NARROW.get(attention)
  model = create_model(name, attention=attention, num_classes=1000, dtype=dtype, **fields)
  step, arguments = random_step.make(model, batch, side, 1000)
  state, inputs, _ = arguments
  variables = jax.tree.map(jnp.copy, {'params': state.params, 'batch_stats': state.batch_stats})
  infer = jax.jit(lambda v, x: model.apply(v, x, train=False))
  began = time.perf_counter()
  training, program = random_step.compiled(step, arguments)
  costs = {
    'compile_s': time.perf_counter() - began,
    'macs': 3 * batch * count_macs(model, (side, side, 3)),
    'peak_bytes': peak_bytes(program),
    'bytes': (program.cost_analysis() or {}).get('bytes accessed', 0.0),
  }
  return training, lambda: infer(variables, inputs['image']), costs


def timms(name: str, attention: str | None, batch: int, side: int) -> Callable[[], None]:
  """A call that trains the network of timm once: compiled, channels last, bfloat16 autocast."""
  import timm
  import torch

  block = {'block_args': {'attn_layer': attention}} if attention else {}
  model = timm.create_model(name, num_classes=1000, **block)
  model = model.cuda().to(memory_format=torch.channels_last).train()
  optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, fused=True)
  images = torch.randn(batch, 3, side, side, device='cuda').to(memory_format=torch.channels_last)
  labels = torch.randint(0, 1000, (batch,), device='cuda')
  model = torch.compile(model)

  def training():
    with torch.autocast('cuda', torch.bfloat16):
      loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()

  training()  # Compiles.
  return training


def measure(part: Part, name: str, batch: int, side: int, dtype: str, with_timm: bool) -> None:
  """A row per mechanism, each timed in turn with the plain network."""
  plain = None
  rate = matrix_rate(256 if part.small else 8192)
  bandwidth = copy_rate(2**20 if part.small else 2**31)
  for attention in _ATTENTION[:2] if part.small else _ATTENTION:
    what = f'{name}, {attention or "none"}, batch {batch}, {side}x{side}, {dtype}'
    with part.trying(what, needs=2 if part.small else 25) as has_time:
      if not has_time:
        return
      training, classifying, costs = ours(name, attention, batch, side, dtype)
      plain = plain or training
      calls = {'plain': plain, 'ours': training, 'classifying': classifying}
      why_no_timm = ''
      if with_timm and (attention is None or attention in _IN_TIMM):
        try:
          if part.left() < _COMPILE_S:
            raise TimeoutError(f'{part.left():.0f} s are left')
          calls['timm'] = timms(name, attention, batch, side)
        except Exception as error:  # It is not there, or fails on this device.
          why_no_timm = f'{type(error).__name__}: {" ".join(str(error).split())[:80]}'
      seconds = interleave(calls, rounds=2 if part.small else _ROUNDS)
      median = {key: float(np.median(values)) for key, values in seconds.items()}
      row = {
        'what': what,
        'train_images_per_s': batch / median['ours'],
        'time_vs_plain': ratio(seconds['ours'], seconds['plain'])[1],
        'infer_images_per_s': batch / median['classifying'],
        'compile_s': costs['compile_s'],
        # Of the matrix rate measured here.
        'flops_utilization': costs['macs'] / median['ours'] / rate,
        # Of the copy rate measured here, by the compiler's count of bytes.
        'bandwidth_utilization': costs['bytes'] / median['ours'] / bandwidth,
      }
      if 'timm' in calls:
        row['timm_train_images_per_s'] = batch / median['timm']
        row['speed_vs_timm'] = ratio(seconds['timm'], seconds['ours'])[1]
      elif why_no_timm:
        row['skipped'] = f'timm: {why_no_timm}'
      part.add(**row)


def main() -> None:
  """Measures as many networks as there is time for."""
  part = Part(__doc__)
  if part.small:
    measure(part, 'resnet20', 4, 32, 'float32', with_timm=False)
    return
  measure(part, 'resnet50', 256, 224, 'bfloat16', with_timm=True)
  for name in ('resnet20', 'resnet18'):
    for batch in (128, 512):
      measure(part, name, batch, 32, 'bfloat16', with_timm=False)


if __name__ == '__main__':
  main()

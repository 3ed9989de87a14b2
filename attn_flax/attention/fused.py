"""Attention by a fused kernel, where the platform that the program is lowered for has one.

A GPU has cuDNN's kernel for half precision, which JAX can trace only on a machine where it finds
cuDNN. A program traced on another machine can be lowered for CPUs and TPUs. Lowering it for GPUs
raises an error, because the result would silently differ from what a machine with a GPU makes.
Where cuDNN is found, JAX lowers such a program for `cuda` alone, not for several platforms at once.
"""

import functools
import math
from typing import NoReturn

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import mlir

from attn_flax.errors import UserError

# The kernel takes head dimensions that are multiples of this.
_MULTIPLE = 8


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`softmax(q k^T) v`; scores are not scaled.

  Args:
    q: [N, heads, Q, d].
    k: [N, heads, K, d].
    v: [N, heads, K, dv].

  Returns:
    [N, heads, Q, dv].

  Raises:
    UserError: when it is lowered for GPUs in half precision, but was traced without cuDNN.
  """
  length = math.ceil(max(q.shape[-1], v.shape[-1]) / _MULTIPLE) * _MULTIPLE

  def fit(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, length - x.shape[-1])))
    return x.transpose(0, 2, 1, 3)

  inputs = fit(q), fit(k), fit(v)
  # cuDNN's kernel takes half precision only.
  if q.dtype in (jnp.bfloat16, jnp.float16):
    out = lax.platform_dependent(*inputs, cuda=_on_cuda, default=_xla)
  else:
    out = _xla(*inputs)
  return out.transpose(0, 2, 1, 3)[..., : v.shape[-1]]


_xla = functools.partial(jax.nn.dot_product_attention, scale=1.0, implementation='xla')
_cudnn = functools.partial(jax.nn.dot_product_attention, scale=1.0, implementation='cudnn')


def _on_cuda(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """The kernel of cuDNN; where it cannot be traced, a program that cannot be lowered."""
  try:
    jax.eval_shape(_cudnn, q, k, v)
  except RuntimeError as error:  # JAX finds no cuDNN, or one that is too old.
    one = _unlowerable.bind(jnp.ones((), q.dtype), reason=str(error))
    return _xla(q * one, k, v)
  return _cudnn(q, k, v)


def _refuse(ctx: object, one: object, *, reason: str) -> NoReturn:
  raise UserError(
    f"implementation='fused' in half precision is cuDNN's kernel on a GPU, but JAX cannot trace it "
    f"here ({reason.rstrip('.')}); take implementation='blocks', or export the program for cuda on "
    'a machine where JAX finds cuDNN'
  )


# A factor of 1 that can be traced; lowering it raises the error above.
_unlowerable = core.Primitive('unlowerable')
_unlowerable.def_abstract_eval(lambda one, **_: one)
mlir.register_lowering(_unlowerable, _refuse)

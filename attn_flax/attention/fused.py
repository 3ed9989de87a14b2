"""Attention by a fused kernel, where the platform that the program is lowered for has one.

In half precision a GPU has cuDNN's, which JAX can trace only where it finds cuDNN. A program that
was traced elsewhere can be lowered for CPU and TPU, but not for GPUs: it would silently be another
program than the one that a machine with a GPU makes, so it raises an error. Where cuDNN is found,
JAX lowers such a program for `cuda` alone, not for several platforms at once.
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

# The kernels want head dimensions that are multiples of this.
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
    UserError: when it is lowered for GPUs, in half precision, on a machine without cuDNN.
  """
  length = math.ceil(max(q.shape[-1], v.shape[-1]) / _MULTIPLE) * _MULTIPLE

  def fit(x):
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
  """The kernel of cuDNN; where it cannot be traced, what raises an error when it is lowered."""
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


# A factor of 1 that exists in traced programs only.
_unlowerable = core.Primitive('unlowerable')
_unlowerable.def_abstract_eval(lambda one, **_: one)
mlir.register_lowering(_unlowerable, _refuse)

"""Attention by a fused kernel, where the platform that the program is lowered for has one.

In half precision a GPU has cuDNN's. It can be traced only where cuDNN is installed, so a program
that is traced elsewhere cannot be lowered for GPUs, and says so: it would otherwise silently be
another program than the one that a machine with a GPU makes.
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
  """The attention of cuDNN; where it cannot be traced, what raises an error if it is lowered."""
  try:
    jax.eval_shape(_cudnn, q, k, v)
  except RuntimeError as error:  # JAX finds no cuDNN, or one that is too old.
    one = _unlowerable.bind(jnp.ones((), q.dtype), reason=str(error))
    return _xla(q * one, k, v)
  return _cudnn(q, k, v)


def _refuse(ctx: object, one: object, *, reason: str) -> NoReturn:
  raise UserError(
    f"implementation='fused' in half precision is cuDNN's kernel on a GPU, which this machine "
    f"cannot prepare ({reason}); take implementation='blocks', or compile or export the program on "
    'a machine where jax finds cuDNN'
  )


# A factor of 1 that exists in traced programs only.
_unlowerable = core.Primitive('unlowerable')
_unlowerable.def_abstract_eval(lambda one, **_: one)
mlir.register_lowering(_unlowerable, _refuse)

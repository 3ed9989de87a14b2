"""`jax.jit` for programs that run once: they need no optimization, as compiling takes most time."""

import functools

import jax

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})

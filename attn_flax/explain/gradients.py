"""Attributions to pixels from gradients with respect to the image.

Sundararajan et al., "Axiomatic Attribution for Deep Networks" (ICML 2017,
https://arxiv.org/abs/1703.01365).
Smilkov et al., "SmoothGrad: removing noise by adding noise" (ICML workshop on visualization for
deep learning 2017, https://arxiv.org/abs/1706.03825).

Both compute one gradient after the other, so that memory does not grow with their number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import UserError, check_counts, check_range
from attn_flax.explain import chance, taps
from attn_flax.explain.loops import accumulate
from attn_flax.layers.types import Model, Variables

_MOST_PASSES = 10**6  # Passes of an image through the network; more take too long on any device.
_MOST_NOISE = 1000.0  # In ranges of an image's values; such noise leaves nothing of the image.


def integrated_gradients(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  steps: int = 32,
  baseline: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Integrated gradients, `(x - baseline) * mean gradient on the line between the two`.

  The result is the signed sum over the colors, so that the pixels of a map add up to the difference
  between the logits of image and baseline (the paper's axiom of completeness), up to the error of
  the midpoint rule with `steps` gradients. Negative pixels count against the class.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    steps: gradients per image; the paper recommends 20 to 300.
    baseline: an image without information, of a shape that broadcasts to that of the images; None:
      zeros, which in normalized images are the data's mean color.

  Returns:
    [N, H, W] float32, not normalized.

  Raises:
    UserError: for labels outside the network's classes, no steps, or a baseline that does not fit.
  """
  labels = taps.check(model, variables, images, labels)
  check_counts(_MOST_PASSES, steps=steps)
  baseline = taps.as_color('baseline', 0.0 if baseline is None else baseline)
  if not taps.fits(baseline, images):
    raise UserError(
      f'a baseline of shape {np.shape(baseline)} does not fit images of shape {images.shape}; give '
      'one image [H, W, 3], one color [3], or None'
    )
  images, baseline = (jnp.asarray(array, jnp.float32) for array in (images, baseline))
  # The midpoint rule: its error falls with the square of the number of steps.
  shares = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
  add = functools.partial(_add_gradient_between, model)
  total = accumulate(add, jnp.zeros_like(images), shares, variables, images, labels, baseline)
  return ((images - baseline) * total / steps).sum(-1)


@functools.partial(jax.jit, static_argnames='model')
def _add_gradient_between(
  model: Model,
  total: jax.Array,
  share: jax.Array,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  baseline: jax.Array,
) -> jax.Array:
  x = baseline + share * (images - baseline)
  return total + taps.input_gradient(model, variables, x, labels)


def smooth_grad(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  key: jax.Array,
  samples: int = 16,
  noise: float = 0.15,
) -> jax.Array:
  """SmoothGrad: the gradient, averaged over noisy copies of the image.

  The result is the mean over the colors of the absolute value, because the sign of a gradient says
  only whether brighter or darker pixels would help. As in the paper's formula, it is taken after
  the average over the copies; before it, the noise would not cancel.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    key: a random key; equal keys give an image the same noise, and so the same map, in any batch.
    samples: noisy copies per image; the paper sees little change above 50.
    noise: standard deviation of the noise, as a share of the range of each image's values; the
      paper takes 0.1 to 0.2.

  Returns:
    [N, H, W] float32, not normalized, at least 0.

  Raises:
    UserError: for labels outside the network's classes, no samples, negative noise, or a key that
      is not a random key.
  """
  labels = taps.check(model, variables, images, labels)
  check_counts(_MOST_PASSES, samples=samples)
  check_range('noise', noise, 0, _MOST_NOISE)
  images = jnp.asarray(images, jnp.float32)
  keys = chance.image_keys(key, None, images)
  numbers = jnp.arange(samples)
  add = functools.partial(_add_gradient_nearby, model)
  fixed = (variables, images, labels, keys, noise)
  total = accumulate(add, jnp.zeros_like(images), numbers, *fixed)
  return jnp.abs(total / samples).mean(-1)


@functools.partial(jax.jit, static_argnames='model')
def _add_gradient_nearby(
  model: Model,
  total: jax.Array,
  number: jax.Array,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  keys: jax.Array,
  noise: float,
) -> jax.Array:
  axes = (1, 2, 3)
  deviation = noise * (images.max(axes, keepdims=True) - images.min(axes, keepdims=True))
  added = chance.normal(jax.vmap(jax.random.fold_in, (0, None))(keys, number), images.shape[1:])
  return total + taps.input_gradient(model, variables, images + deviation * added, labels)

"""Class activation maps: where the feature map of a stage supports a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (ICCV 2017, https://arxiv.org/abs/1610.02391).
Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks"
(WACV 2018, https://arxiv.org/abs/1710.11063).
Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
neural networks" (2020, https://arxiv.org/abs/2011.08891).
Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization" (IEEE TIP
2021, https://doi.org/10.1109/TIP.2021.3089943).

Each method is one rule over A, the output of a stage, and G, the gradient of the label's logit
with respect to it, both [N, h, w, C]. The map is `relu(rule(A, G))`, [N, h, w]. It is not
normalized: where nothing supports the class, it is zero everywhere (`maps.max((1, 2)) == 0` finds
such maps).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from attn_flax.explain import networks, taps
from attn_flax.layers.types import Model, Variables

Rule = Callable[[jax.Array, jax.Array], jax.Array]


@functools.partial(jax.jit, static_argnames=('model', 'stage', 'rule'))
def _compiled(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  stage: int | None,
  rule: Rule,
) -> jax.Array:
  a, g = taps.activations_and_gradients(model, variables, images, labels, stage=stage)
  return nn.relu(rule(a, g))


def _cam(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  stage: int | None,
  rule: Rule,
) -> jax.Array:
  labels = taps.check(model, variables, images, labels)
  networks.check_stage(model, stage)
  return _compiled(model, variables, images, labels, stage, rule)


def _channel_weights(a: jax.Array, g: jax.Array) -> jax.Array:
  return jnp.einsum('nhwc,nc->nhw', a, g.mean((1, 2)))


def _plus_plus(a: jax.Array, g: jax.Array) -> jax.Array:
  # Where G > 0, the paper's G^2 / (2 G^2 + sum(A) G^3) is 1 / (2 + sum(A) G); elsewhere alpha is
  # multiplied by relu(G) = 0.
  below = 2 + g * a.sum((1, 2), keepdims=True)
  alpha = jnp.where(below == 0, 0.0, 1 / jnp.where(below == 0, 1.0, below))
  return jnp.einsum('nhwc,nc->nhw', a, (alpha * nn.relu(g)).sum((1, 2)))


def _elementwise(a: jax.Array, g: jax.Array) -> jax.Array:
  return (a * g).sum(-1)


def _positive_elementwise(a: jax.Array, g: jax.Array) -> jax.Array:
  return (a * nn.relu(g)).sum(-1)


def grad_cam(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  stage: int | None = None,
) -> jax.Array:
  """Grad-CAM: each channel weighted by its mean gradient, `relu(sum_c A_c mean(G_c))`.

  Where only a global mean and a dense layer follow, as after the last stage of the library's
  ResNets, it is the positive part of the original class activation map (CAM), divided by h * w.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    stage: number of the stage, from 1; None for the last.

  Returns:
    [N, h, w] float32, not normalized, at least 0.

  Raises:
    UserError: for a stage that the network does not have, or labels outside its classes.
  """
  return _cam(model, variables, images, labels, stage, _channel_weights)


def grad_cam_plus_plus(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  stage: int | None = None,
) -> jax.Array:
  """Grad-CAM++: channels weighted by `sum(alpha relu(G))`, so that small regions count as much.

  alpha = G^2 / (2 G^2 + sum(A) G^3), with sums over positions. The paper differentiates the
  exponential of the logit; its factor exp(logit), one number per image, is left out here, because
  it overflows and only scales the map. The rule is derived for A >= 0, which does not hold for
  MnasNet, vision transformers and all but the last stage of pre-activation networks.

  Arguments, result and errors are those of `grad_cam`.
  """
  return _cam(model, variables, images, labels, stage, _plus_plus)


def hires_cam(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  stage: int | None = None,
) -> jax.Array:
  """HiResCAM: `relu(sum_c A_c G_c)`, with the gradient at each position instead of its mean.

  Grad-CAM's mean gradient may highlight positions that the network did not use. Where only a global
  mean and a dense layer follow the stage, the two maps agree. The paper's map has no ReLU; to have
  it, multiply and sum the results of `taps.activations_and_gradients`.

  Arguments, result and errors are those of `grad_cam`.
  """
  return _cam(model, variables, images, labels, stage, _elementwise)


def layer_cam(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  stage: int | None = None,
) -> jax.Array:
  """LayerCAM: `relu(sum_c A_c relu(G_c))`, meant for early stages, too.

  Arguments, result and errors are those of `grad_cam`.
  """
  return _cam(model, variables, images, labels, stage, _positive_elementwise)

"""The output of a network's stage, and the gradient of a logit with respect to it.

Networks name each stage's output with `layers.tap`, which records it and adds a variable to it; the
gradient is taken with respect to this variable. It needs no hooks and leaves the network as it is.
Of a network that names no stages, the last feature map is taken, see `networks`.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attn_flax.errors import MOST_CLASSES, UserError, check_type, shown
from attn_flax.explain import networks
from attn_flax.layers.types import Model, Variables


def as_color(what: str, values: object) -> jax.Array:
  """Pixels as an array of numbers; raises `UserError` unless all are finite numbers."""
  array = as_floats(what, values)
  if not isinstance(array, jax.core.Tracer) and not np.isfinite(array).all():
    raise UserError(f'{what}={shown(values)} is impossible; give finite numbers')
  return array


def as_floats(what: str, values: object) -> jax.Array:
  """Values as an array for the device; raises `UserError` unless they are numbers."""
  array = as_array(what, values)
  with np.errstate(over='ignore'):  # Numbers too large for 32 bits become infinite.
    return jnp.asarray(array)


def as_array(what: str, values: object) -> np.ndarray | jax.Array:
  """Values as an array of numbers; raises `UserError` unless they are numbers."""
  if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.number):
    return values
  try:
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    if jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool:
      return array
  except (TypeError, ValueError, OverflowError):
    pass
  raise UserError(f'{what}={shown(values)} is impossible; give an array of numbers')


def check_key(key: object) -> None:
  """Raises `UserError` unless `key` is a random key of JAX."""
  if isinstance(key, jax.Array):
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.ndim:
      return
    if key.dtype == jnp.uint32 and key.ndim == 1:
      return
  raise UserError(f'key={shown(key)} is impossible; give a random key, such as jax.random.key(0)')


def check_network(model: Model, variables: Variables, images: jax.Array) -> None:
  """Raises `UserError` unless given a network, variables with weights, and images."""
  check_type('model', model, nn.Module, 'a network, such as `create_model` makes')
  check_images(images)
  try:
    hash(model)
  except TypeError:
    raise UserError(
      f'{type(model).__name__} cannot be compiled, because one of its fields is not hashable, such '
      'as an array; give its fields numbers, strings, tuples and modules only'
    ) from None
  fix = "what the network's `init` returns"
  check_type('variables', variables, Mapping, fix)
  if 'params' not in variables:  # A network may have no parameters.
    mode = networks.evaluation_mode(model)
    needed = jax.eval_shape(lambda: model.init(jax.random.key(0), images[:1], **mode))
    if 'params' in needed:
      raise UserError(f'variables={shown(variables)} hold no weights; give {fix}')


def check_images(images: jax.Array) -> None:
  """Raises `UserError` unless images are floats [N, H, W, C], as normalized images are."""
  if not isinstance(images, jax.Array | np.ndarray):
    raise UserError(f'images={shown(images)} is impossible; give an array [N, H, W, 3] of floats')
  if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(
      f'images of shape {images.shape} and type {images.dtype} cannot be explained; give the '
      'normalized images that the network takes, [N, H, W, 3] of floats'
    )


def check(
  model: Model, variables: Variables, images: jax.Array, labels: jax.typing.ArrayLike
) -> jax.Array:
  """The labels as an array [N] of integers; lists and whole floats are taken, too.

  Their values are checked where they are known, not inside a compiled function.

  Raises:
    UserError: for images or labels that do not fit the network or each other.
  """
  check_network(model, variables, images)
  num_classes = networks.count_classes(model, variables, images)
  array = as_array('labels', list(labels) if isinstance(labels, range) else labels)
  if jnp.issubdtype(array.dtype, jnp.floating) and not isinstance(array, jax.core.Tracer):
    values = np.asarray(array)
    if ((values == np.round(values)) & (abs(values) < MOST_CLASSES)).all():
      array = jnp.asarray(values, jnp.int32)
  if array.shape != images.shape[:1] or not jnp.issubdtype(array.dtype, jnp.integer):
    raise UserError(
      f'labels of shape {array.shape} and type {array.dtype} do not fit {len(images)} images; give '
      'one class number per image, [N]'
    )
  if isinstance(array, jax.core.Tracer):
    return array
  values = np.asarray(array)
  wrong = values[(values < 0) | (values >= num_classes)]
  if wrong.size:
    raise UserError(
      f'labels hold {wrong[0]}, not a class of this network; allowed: 0 to {num_classes - 1}'
    )
  return jnp.asarray(array)


def fits(values: jax.typing.ArrayLike, images: jax.Array) -> bool:
  """Whether values, such as one color [3], broadcast to the shape of images [N, H, W, C]."""
  shape = np.shape(values)
  sizes = zip(reversed(shape), reversed(images.shape), strict=False)
  return len(shape) <= images.ndim and all(size in (1, full) for size, full in sizes)


def at_labels(values: jax.Array, labels: jax.Array) -> jax.Array:
  """The value of each image's label: [N, num_classes], [N] -> [N]."""
  return jnp.take_along_axis(values, jnp.asarray(labels)[:, None], axis=1)[:, 0]


def probability(
  model: Model, variables: Variables, images: jax.Array, labels: jax.Array
) -> jax.Array:
  """Probability of each image's label, [N]."""
  return at_labels(jax.nn.softmax(networks.evaluate(model, variables, images)), labels)


def input_gradient(
  model: Model, variables: Variables, images: jax.Array, labels: jax.Array
) -> jax.Array:
  """Gradient of the label's logit with respect to the pixels, [N, H, W, 3]."""
  # In evaluation mode no image acts on another's logits, so one gradient of the sum serves all.
  return jax.grad(lambda x: at_labels(networks.evaluate(model, variables, x), labels).sum())(images)


def activations(
  model: Model, variables: Variables, images: jax.Array, *, stage: int | None = None
) -> jax.Array:
  """The output of a stage, [N, h, w, C] float32.

  It is taken after the last block's addition and its ReLU, if it has one, and after attention at
  the place 'stage'; at the last stage of a pre-activation network also after the final norm and
  ReLU. The output of a convolution inside the block would show only what the block adds.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    stage: number of the stage, from 1; None for the last.

  Raises:
    UserError: for a stage that the network does not have.
  """
  check_network(model, variables, images)
  networks.check_stage(model, stage)
  return _activations(model, variables, images, stage)


@functools.partial(jax.jit, static_argnames=('model', 'stage'))
def _activations(
  model: Model, variables: Variables, images: jax.Array, stage: int | None
) -> jax.Array:
  layer = networks.find_layer(model, variables, images, stage)
  return networks.read(model, variables, images, layer)[1].astype(jnp.float32)


def activations_and_gradients(
  model: Model,
  variables: Variables,
  images: jax.Array,
  labels: jax.Array,
  *,
  stage: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The output of a stage, and the gradient of each label's logit with respect to it.

  Args:
    model: the network.
    variables: its variables.
    images: [N, H, W, 3], normalized.
    labels: [N], the classes that are explained.
    stage: number of the stage, from 1; None for the last.

  Returns:
    Output and gradient, each [N, h, w, C] float32.

  Raises:
    UserError: for a stage that the network does not have, or labels outside its classes.
  """
  labels = check(model, variables, images, labels)
  networks.check_stage(model, stage)
  return _activations_and_gradients(model, variables, images, labels, stage)


@functools.partial(jax.jit, static_argnames=('model', 'stage'))
def _activations_and_gradients(
  model: Model, variables: Variables, images: jax.Array, labels: jax.Array, stage: int | None
) -> tuple[jax.Array, jax.Array]:
  layer = networks.find_layer(model, variables, images, stage)

  def run(added: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    logits, value = networks.read(model, variables, images, layer, added)
    assert isinstance(logits, jax.Array)  # `check` refuses any other output.
    return at_labels(logits, labels).sum(), value

  # In the dtype of the feature map, so that adding it changes no dtype.
  _, shape = jax.eval_shape(lambda: run(None))
  gradient, value = jax.grad(run, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
  return value.astype(jnp.float32), gradient.astype(jnp.float32)

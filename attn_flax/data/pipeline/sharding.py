"""How batches are spread over devices, and how they are copied there."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from attn_flax.errors import UserError, check_range, check_type

Arrays = dict[str, jax.Array]
_MOST_BATCH = 2**20


def check_batch(batch_size: int, mesh: jax.sharding.Mesh | None) -> None:
  """Raises `UserError` unless a batch can be spread evenly over the devices of a mesh."""
  if mesh is not None:
    check_type('mesh', mesh, jax.sharding.Mesh, 'a mesh with the axis data, or None')
  num_devices = 1 if mesh is None else mesh.size
  check_range('batch_size', batch_size, most=_MOST_BATCH, whole=True)
  if batch_size <= 0 or batch_size % num_devices:
    devices = '1 device' if num_devices == 1 else f'{num_devices} devices'
    raise UserError(
      f'a batch of {batch_size} cannot be spread over {devices}: choose a positive multiple of '
      f'{num_devices}'
    )


def shardings(
  mesh: jax.sharding.Mesh | None,
) -> tuple[jax.sharding.Sharding, jax.sharding.Sharding]:
  """Two shardings: an array whole on every device, and its first axis spread over the devices."""
  if mesh is None:
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return alone, alone
  spec = jax.sharding.PartitionSpec
  return jax.sharding.NamedSharding(mesh, spec()), jax.sharding.NamedSharding(mesh, spec('data'))


def own_rows(sharding: jax.sharding.Sharding, batch_size: int) -> np.ndarray:
  """The rows of a batch that the devices of this process hold, ascending."""
  places = sharding.addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[place] for place in places]))


def place(arrays: dict[str, np.ndarray], sharding: jax.sharding.Sharding) -> Arrays:
  """Copies arrays to the devices; each process contributes the parts that its own devices hold."""

  def part_of(array: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda index: array[index]

  with jax.transfer_guard('allow'):  # JAX counts this copy as implicit, but it is meant.
    return {
      name: jax.make_array_from_callback(array.shape, sharding, part_of(array))
      for name, array in arrays.items()
    }


def place_rows(
  arrays: dict[str, np.ndarray],
  sharding: jax.sharding.Sharding,
  rows: np.ndarray,
  batch_size: int,
) -> Arrays:
  """Like `place`, for a process that has only its own rows of the batch.

  Args:
    arrays: by name, each [len(rows), ...].
    sharding: spreads the first axis.
    rows: the result of `own_rows`.
    batch_size: number of rows of the whole batch.
  """

  def part_of(array: np.ndarray) -> Callable[..., np.ndarray]:
    def part(index: tuple[slice, ...]) -> np.ndarray:
      start, stop, _ = index[0].indices(batch_size)
      first = int(np.searchsorted(rows, start))
      return array[first : first + stop - start]

    return part

  with jax.transfer_guard('allow'):
    return {
      name: jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part_of(array))
      for name, array in arrays.items()
    }


def abstract(
  arrays: Mapping[str, tuple[tuple[int, ...], np.typing.DTypeLike]], sharding: jax.sharding.Sharding
) -> dict[str, jax.ShapeDtypeStruct]:
  """Abstract arrays on the devices, given the (shape, dtype) of each by name."""
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in arrays.items()
  }

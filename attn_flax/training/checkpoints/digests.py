"""Digests of a checkpoint's content, so that damaged weights are noticed."""

import hashlib
import json
import pathlib
import sys

import jax
import numpy as np

from attn_flax.training.artifacts import Json
from attn_flax.training.checkpoints.whole import Damaged
from attn_flax.training.distributed import processes


def of_array(array: jax.typing.ArrayLike) -> str:
  """SHA-256 of an array's dtype, shape and bytes."""
  array = np.asarray(array)
  digest = hashlib.sha256(f'{array.dtype} {array.shape}'.encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def of_arrays(tree: object) -> dict[str, str]:
  """The digest of each array of a pytree, by its path such as `params/stem_conv/kernel`."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): of_array(leaf) for path, leaf in leaves
  }


def of_json(content: Json) -> str:
  """SHA-256 of JSON values, independent of the order of keys."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_arrays(checkpoint: pathlib.Path, tree: object, digests: dict[str, str] | None) -> None:
  """Checks arrays that were read from a checkpoint.

  Args:
    checkpoint: the folder of the checkpoint, for messages.
    tree: a pytree of arrays.
    digests: the digest of each array, by its path; None, with a warning, for a checkpoint that was
      saved by a version without digests.

  Raises:
    Damaged: where an array differs from its digest or has none.
  """
  if digests is None:
    if processes.is_first():
      print(
        f'warning: the checkpoint {checkpoint} was saved before there were digests; damage to it '
        'would not be noticed',
        file=sys.stderr,
      )
    return
  names = [path for path, digest in of_arrays(tree).items() if digests.get(path) != digest]
  if names:
    what = f'{names[0]} differs from its digest'
    if len(names) > 1:
      what = f'{names[0]} and {len(names) - 1} more differ from their digests'
    raise Damaged(f'the checkpoint {checkpoint} is damaged: {what}')

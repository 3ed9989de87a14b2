"""Digests of a checkpoint's content, so that damaged weights are noticed."""

import hashlib
import json

import jax
import numpy as np

from attn_flax.training.artifacts import Json


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


def damaged(tree: object, digests: dict[str, str]) -> list[str]:
  """The paths of the arrays in a tree that differ from their digests or have none."""
  return [path for path, digest in of_arrays(tree).items() if digests.get(path) != digest]

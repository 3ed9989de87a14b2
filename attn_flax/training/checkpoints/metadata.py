"""The JSON file of a checkpoint: times, validation scores, and the digests of its arrays."""

import json
import pathlib

from attn_flax.files import read_file
from attn_flax.training import artifacts
from attn_flax.training.checkpoints import digests


def _path(checkpoint: pathlib.Path) -> pathlib.Path:
  return checkpoint / 'progress' / 'metadata'  # Orbax's name for the file.


def signed(content: artifacts.Json) -> artifacts.Json:
  """JSON values with a digest of all of them, as `digest`."""
  content = json.loads(json.dumps(content))
  return {**content, 'digest': digests.of_json(content)}


def write(checkpoint: pathlib.Path, content: artifacts.Json) -> None:
  """Replaces the file of a checkpoint; adds the digest.

  Raises:
    UserError: where it cannot be written.
  """
  artifacts.write_json(_path(checkpoint), signed(content))


def read(checkpoint: pathlib.Path) -> artifacts.Json:
  """The content of a checkpoint's file, without its own digest.

  In checkpoints saved by a version without digests, `digests` is None.

  Raises:
    OSError: where the file cannot be read.
    ValueError: where it is damaged.
  """
  path = _path(checkpoint)
  content = _mapping(path)
  digest = content.pop('digest', None)
  if digest is not None:
    if digests.of_json(content) != digest:
      raise ValueError(f'{path} differs from its digest')
    return content
  if 'digests' in content or 'train_seconds' not in content:
    raise ValueError(f'{path} has lost fields')
  scores = checkpoint / 'metrics' / 'metrics'  # Orbax's name for the file of scores.
  found = _mapping(scores) if scores.exists() else None
  if not isinstance(content['train_seconds'], int | float):
    raise ValueError(f'{path} has a train_seconds that is no number')
  return {**content, 'scores': found, 'digests': None}


def _mapping(path: pathlib.Path) -> artifacts.Json:
  try:
    content = json.loads(read_file(path))
  except RecursionError:
    content = None
  if not isinstance(content, dict):
    raise ValueError(f'{path} holds no JSON object')
  return content

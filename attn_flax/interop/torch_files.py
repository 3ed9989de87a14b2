"""The arrays of a PyTorch checkpoint, as training scripts save it, by name.

No code in a file is run: PyTorch's own restricted reader takes tensors, and beside them the plain
values that scripts store with their weights.
"""

import argparse
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import jax
import numpy as np

from attn_flax.errors import UserError
from attn_flax.files import local_path

_ENDINGS = ('.pth', '.pth.tar', '.tar', '.pt', '.bin', '.ckpt')
# The keys under which scripts keep their weights; averages first, which they evaluate.
_AVERAGES = (
  'state_dict_ema',
  'model_ema',
  'ema_state_dict',
  'model_ema_state_dict',
  'ema_model',
  'ema',
)
_ENTRIES = (*_AVERAGES, 'state_dict', 'model_state_dict', 'model', 'net', 'network', 'weights')


def read_state_dict(source: str | pathlib.Path | Mapping[str, object]) -> dict[str, np.ndarray]:
  """The arrays of a state dict, by name, from a file or a mapping.

  Where a checkpoint holds averaged weights beside the raw ones, the averaged ones are read.

  Raises:
    UserError: for a file that is missing, damaged or of an unknown kind, or that takes a package to
      read that is not installed.
  """
  content: object = source
  if isinstance(source, str | pathlib.Path):
    path = local_path(source)
    if not path.is_file():
      raise UserError(f'{path} is not a file; name a PyTorch, safetensors or npz file')
    content = _read_file(path)
  if not isinstance(content, Mapping):
    raise UserError(f'a {type(content).__name__} holds no weights; give a state dict')
  content = _entry(content)
  arrays = {}
  for name, value in content.items():
    value = value.detach().cpu().float().numpy() if hasattr(value, 'detach') else value
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
      raise UserError(f'{name!r} is a {type(value).__name__}, not an array; give a state dict')
    arrays[str(name)] = np.asarray(value)
  if not arrays:
    raise UserError('no weights found; give a state dict, or a file that holds one')
  return arrays


def _entry(content: Mapping[object, object]) -> Mapping[object, object]:
  """The state dict inside a checkpoint."""
  for key in _ENTRIES:
    inner = content.get(key)
    if isinstance(inner, Mapping) and inner:
      return _entry(inner)
  holders = [value for value in content.values() if _holds_arrays(value)]
  return holders[0] if len(holders) == 1 else content


def _holds_arrays(value: object) -> TypeGuard[Mapping[object, object]]:
  """Whether a value is a state dict, under whatever key."""
  if not isinstance(value, Mapping) or not value:
    return False
  return all(isinstance(array, np.ndarray) or hasattr(array, 'detach') for array in value.values())


def _read_file(path: pathlib.Path) -> object:
  name = path.name.lower()
  try:
    if name.endswith('.npz'):
      with np.load(path) as file:
        return dict(file)
    if name.endswith('.safetensors'):
      from safetensors.numpy import load_file  # Optional.

      return load_file(path)
    if name.endswith(_ENDINGS):
      return _read_torch(path)
  except UserError:
    raise
  except ImportError as error:
    raise UserError(
      f'{path} takes the package {error.name!r} to be read; install it (pip install {error.name}), '
      'or save the weights as .npz'
    ) from None
  except Exception as error:  # Each reader raises other exceptions for a damaged file.
    raise UserError(
      f'{path} cannot be read ({type(error).__name__}: {plain(error)}); save the weights again'
    ) from None
  raise UserError(
    f'{path} is of an unknown kind; allowed: {", ".join(_ENDINGS)}, .safetensors, .npz'
  )


def _read_torch(path: pathlib.Path) -> object:
  import torch  # Optional.

  with torch.serialization.safe_globals(list(_plain_values())):
    try:
      return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:
      text = plain(error)
      if 'weights_only' not in text:
        raise
  # PyTorch's message suggests a way of reading that may run code, so it is not shown.
  save = "import torch; torch.save(model.state_dict(), 'weights.pth')"
  if asked := re.search(r'GLOBAL ([\w.]+)', text):
    raise UserError(
      f'{path} holds more than weights ({asked[1]}), which could run code when read; where the '
      f'model was made, save its weights alone: {save}'
    )
  cause = re.search(r'WeightsUnpickler error: (.*?) Check the documentation', text)
  raise UserError(
    f'{path} is damaged or holds more than weights{f" ({cause[1]})" if cause else ""}; where the '
    f'model was made, save its weights alone: {save}'
  )


def _plain_values() -> Iterator[Any]:
  """Classes whose instances only hold data: parsed arguments, paths, NumPy's numbers."""
  yield from (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath)
  # Python 3.13 writes the class under this name.
  yield from ((pathlib.PosixPath, 'pathlib._local.PosixPath'),)
  yield from (np.ndarray, np.dtype)
  yield from {type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdUS'}
  scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
  # NumPy before and since version 2.
  for core in ('numpy.core', 'numpy._core'):
    yield (scalar, f'{core}.multiarray.scalar')
    yield (rebuild, f'{core}.multiarray._reconstruct')


def plain(error: BaseException) -> str:
  """The text of an error in one line, without the codes that color a terminal."""
  return ' '.join(re.sub(r'\x1b\[[0-9;]*[A-Za-z]', '', str(error)).split())

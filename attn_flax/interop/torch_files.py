"""The arrays of a PyTorch checkpoint, as training scripts save it, by name.

No code in a file is run: PyTorch's own restricted reader takes tensors, and beside them the plain
values that scripts store with their weights.
"""

import argparse
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from attn_flax.errors import UserError
from attn_flax.files import local_path

_ENDINGS = ('.pth', '.pth.tar', '.tar', '.pt', '.bin', '.ckpt')


def read_state_dict(source: str | pathlib.Path | Mapping[str, object]) -> dict[str, np.ndarray]:
  """All arrays of a checkpoint from a file or a mapping.

  Returns:
    {name: array}; the name of an array in an entry of the checkpoint is that of the entry, a dot,
    and its name there, as in 'state_dict.conv1.weight'.

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
  arrays = dict(_arrays(content, ''))
  if not arrays:
    held = ', '.join(repr(str(name)) for name in list(content)[:5])
    raise UserError(
      f'no weights found: no array is in it or its entries ({held or "it has none"}); give a state '
      'dict, or a file that holds one'
    )
  return arrays


def _arrays(value: object, name: str) -> Iterator[tuple[str, np.ndarray]]:
  """The arrays in a value, which may be nested; all else is passed over."""
  if isinstance(value, Mapping | list | tuple):
    entries = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, inner in entries:
      yield from _arrays(inner, f'{name}.{key}' if name else str(key))
    return
  if hasattr(value, 'detach'):
    value = value.detach().cpu().float().numpy()
  # Not words, which .npz files hold as arrays.
  if isinstance(value, np.ndarray | np.generic | jax.Array) and value.dtype.kind not in 'OSU':
    yield name, np.asarray(value)


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
  yield argparse.Namespace
  for name in ('Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath'):
    # Python 3.13 writes the classes under another name. A path of the other system cannot be made.
    made = getattr(pathlib, name if name.startswith('Pure') else 'Path')
    yield from ((made, f'pathlib.{name}'), (made, f'pathlib._local.{name}'))
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

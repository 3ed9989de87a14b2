"""Mechanisms by name: built in, from an installed package, or a class of your own.

A name is one of
  mechanisms.ATTENTION   the mechanisms of this library;
  an entry point         what an installed package declares in the group `attn_flax.attention`, in
                         its pyproject.toml: `[project.entry-points.'attn_flax.attention']`, then
                         `my_gate = 'my_package.gates:MyGate'`;
  'module:Class'         a class in a module that Python finds, also in the working directory.
"""

import importlib
import importlib.metadata
import operator
import os
import re
import sys

import flax.linen as nn

from attn_flax.attention.mechanisms import ATTENTION
from attn_flax.errors import UserError, check_choice

GROUP = 'attn_flax.attention'


def look_in_working_directory() -> None:
  """Adds the working directory to Python's path, as `python -m` does but no installed command."""
  if os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())


def list_attention() -> list[str]:
  """The names of the attention mechanisms that `create_model` knows, installed packages included.

  Raises:
    UserError: for an installed package that declares a name that is taken.
  """
  return sorted([*ATTENTION, *_installed()])


def find_attention(name: str) -> type[nn.Module]:
  """The class of the mechanism with a name.

  Raises:
    UserError: for an unknown name, a module that is missing or cannot be imported, and anything
      that is not a Flax (Linen) module class.
  """
  if name in ATTENTION:
    return ATTENTION[name]
  if ':' in name:
    return _load(name)
  installed = _installed()
  check_choice('attention', name, [*ATTENTION, *installed])
  return _load(installed[name])


def attention_name(module: type[nn.Module]) -> str:
  """The name by which `find_attention` finds a class; a class of your own is 'module:Class'."""
  known = (name for name, built_in in ATTENTION.items() if built_in is module)
  return next(known, f'{module.__module__}:{module.__qualname__}')


def _installed() -> dict[str, str]:
  """What installed packages declare: 'module:Class' by name."""
  found: dict[str, str] = {}
  for entry in importlib.metadata.entry_points(group=GROUP):
    if entry.name in ATTENTION or found.get(entry.name, entry.value) != entry.value:
      taken = found.get(entry.name, 'a built-in mechanism')
      raise UserError(
        f'an installed package gives {entry.value} the name {entry.name!r} in its entry points '
        f'({GROUP}), but this name is taken by {taken}; uninstall the package or rename the entry'
      )
    found[entry.name] = entry.value
  return found


def _load(path: str) -> type[nn.Module]:
  """The class at 'module:Class'."""
  if not re.fullmatch(r'\w+(\.\w+)*:\w+(\.\w+)*', path):
    raise UserError(f'attention {path!r} is not of the form module:Class; name a class like this')
  module_name, _, class_name = path.partition(':')
  look_in_working_directory()
  try:
    module = importlib.import_module(module_name)
  except Exception as error:  # The user's module may raise anything.
    if isinstance(error, ModuleNotFoundError) and f'{module_name}.'.startswith(f'{error.name}.'):
      raise UserError(
        f'attention {path!r}: there is no module {error.name!r} in the working directory or along '
        "Python's path; run in its folder, or add this folder to PYTHONPATH"
      ) from None
    raise UserError(
      f'attention {path!r}: importing {module_name!r} fails ({type(error).__name__}: {error}); '
      'fix the module'
    ) from error
  try:
    found = operator.attrgetter(class_name)(module)
  except AttributeError:
    classes = [name for name, value in vars(module).items() if _is_module(value)]
    check_choice(f'class of {module_name}', class_name, classes or ['none, it has no Flax module'])
    raise
  if not _is_module(found):
    raise UserError(
      f'attention {path!r} is not a Flax module class; derive it from flax.linen.Module'
    )
  return found


def _is_module(value: object) -> bool:
  return isinstance(value, type) and issubclass(value, nn.Module)

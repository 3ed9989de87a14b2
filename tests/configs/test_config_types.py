"""The Protocols of configs have the fields of the config files, with the same types."""

import types
import typing

import pytest

from attn_flax.commands import workdir
from attn_flax.study import conditions
from attn_flax.study import config as of_study
from attn_flax.training import bounds, left_open, run_folder
from attn_flax.training import config as of_run
from configs import base, compare


def is_section(kind):
  return of_run.ConfigSection in getattr(kind, '__mro__', ())


def sections(protocol):
  """(path, Protocol) of a config's Protocol and of all sections in it."""
  yield '', protocol
  for name, kind in typing.get_type_hints(protocol).items():
    if is_section(kind):
      yield from ((f'{name}.{path}'.rstrip('.'), inner) for path, inner in sections(kind))


def kinds(hint):
  """The classes of a type hint; None's is NoneType."""
  if isinstance(hint, types.UnionType):
    return tuple(kind for part in typing.get_args(hint) for kind in kinds(part))
  origin = typing.get_origin(hint) or hint
  return (int, float) if origin is float else (origin,)


def at(config, path):
  for part in filter(None, path.split('.')):
    config = config[part]
  return config


CASES = [(base.get_config, path, kind) for path, kind in sections(of_run.Config)]
CASES += [(compare.get_config, path, kind) for path, kind in sections(of_study.StudyConfig)]


@pytest.mark.parametrize(('make', 'path', 'protocol'), CASES)
@pytest.mark.parametrize('word', ['', 'smoke'])
def test_a_section_has_the_fields_of_its_type(make, path, protocol, word):
  section, hints = at(make(word), path), typing.get_type_hints(protocol)
  if protocol is of_run.ModelConfig:  # It also has the fields of each network.
    assert hints.keys() <= set(section)
  elif protocol is not of_run.ConfigSection:
    assert hints.keys() == set(section)
  for name, hint in hints.items():
    if not is_section(kinds(hint)[0]):
      assert isinstance(section[name], kinds(hint)), name
      is_nullable = type(None) in kinds(hint)
      assert section[name] is not None or is_nullable, name
      # A field that is none in the file can be set, to values of one type.
      if is_nullable and section[name] is None:
        assert section.get_type(name) in kinds(hint), name


def test_every_type_is_held_to_a_config():
  named = {kind for _, _, kind in CASES}
  for module in (of_run, of_study):
    for kind in vars(module).values():
      if isinstance(kind, type) and kind.__module__ == module.__name__:
        assert kind in named


NAMED = {
  *(*bounds._CHECKS, *conditions._NAMED, *left_open._FIELDS),
  *(*run_folder._FREE, *run_folder._LENGTH, *run_folder._NEWER),
}


@pytest.mark.parametrize('field', sorted(NAMED))
def test_fields_that_the_package_names_exist(field):
  assert field in run_folder.flatten(base.get_config().to_dict())


@pytest.mark.parametrize('field', workdir._OF_NO_RUN)
def test_fields_of_a_study_that_the_package_names_exist(field):
  assert field in compare.get_config()

"""Dotted paths of the fields of a config, and which of them belong to the attention mapping."""

import re

from ml_collections import ConfigDict

from attn_flax.models.placement import PLACES

# A section that maps places of the network to attention: of a run's config, or of a study's.
MAPPING = re.compile(r'(?:base\.)?model\.attention|variants\.[^.]+')
# A field of an entry of such a section: the section, the place, and the field's name.
OF_ENTRY = re.compile(rf'({MAPPING.pattern})\.({"|".join(PLACES)})\.(\w+)')


def flat(config: ConfigDict, prefix: str = '') -> dict[str, object]:
  """All fields of a config, in their order: their values by path, which begins with `prefix`."""
  found: dict[str, object] = {}
  for name in config:
    value = config[name]
    if isinstance(value, ConfigDict):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = value
  return found


def value_at(config: ConfigDict, path: str) -> object:
  """The value or section at a path; None where there is none."""
  found: object = config
  for part in path.split('.'):
    found = found.get(part) if isinstance(found, ConfigDict) else None
  return found

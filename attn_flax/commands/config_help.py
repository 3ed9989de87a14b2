"""The help of a config's fields: the comments of the config files, and docstrings of mechanisms."""

import inspect
import pathlib
import re

from ml_collections import ConfigDict

from attn_flax.attention.names import find_attention
from attn_flax.commands import configs
from attn_flax.commands.field_paths import OF_ENTRY, flat, value_at

# The help of `models.create.PLACEMENT_FIELDS`, which every entry of the attention mapping has.
OF_EVERY_ENTRY = {
  'name': 'The mechanism.',
  'stages': "Stages where it is applied, from 1; none: the mechanism's default.",
  'every': 'It is applied in every n-th block of a stage.',
  'start': "'paper', as the mechanism starts, or 'identity', as the network without it.",
}


def describe(config: ConfigDict) -> str:
  """The fields of a config, each with its value and the comment above it in the config files.

  They are in the order of these files, fields of a study before the fields that its runs share.
  """
  comments = {
    **_comments(configs.folder() / 'presets' / 'study.py'),
    **_comments(configs.folder() / 'base.py'),
  }
  places = {field: place for place, field in enumerate(comments)}

  def place(path: str) -> tuple[int, str, int]:
    """A sort key: fields of a section stay together, fields of every entry come first."""
    holder, _, name = path.rpartition('.')
    field = path.removeprefix('base.')
    while field and field not in places:
      field = field.rpartition('.')[0]
    usual = [*OF_EVERY_ENTRY, name].index(name)
    return places.get(field, len(places)), holder, usual

  lines = []
  for path, value in sorted(flat(config).items(), key=lambda field: place(field[0])):
    comment = comments.get(path.removeprefix('base.')) or _of_mechanism(path, config)
    lines.append(f'--config.{path}={value}')
    lines += [f'    {comment}'] if comment else []
  return '\n'.join(lines)


def _comments(path: pathlib.Path) -> dict[str, str]:
  """The comments above the lines `config.<field> = ...` of a file, by field."""
  found: dict[str, str] = {}
  comment: list[str] = []
  for line in path.read_text(encoding='utf-8').splitlines():
    if text := re.fullmatch(r'\s*# (.*)', line):
      comment.append(text[1])
      continue
    if field := re.match(r'\s*config\.([\w.]+) = ', line):
      found.setdefault(field[1], ' '.join(comment))  # A field may be set again without a comment.
    comment = []
  return found


def _of_mechanism(path: str, config: ConfigDict) -> str:
  """The meaning of a field of an attention entry, from the docstring of its class."""
  match = OF_ENTRY.fullmatch(path)
  if match is None or path.startswith('variants.'):
    return ''
  section, place, field = match.groups()
  if field in OF_EVERY_ENTRY:
    return OF_EVERY_ENTRY[field]
  text = inspect.getdoc(find_attention(str(value_at(config, f'{section}.{place}.name')))) or ''
  if about := re.search(rf'^  {field}: (.*(?:\n    .*)*)', text, re.M):
    return ' '.join(about[1].split())
  return ''

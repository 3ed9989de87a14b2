"""Groups run folders by variant and seed, and checks that they may be compared."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from attn_flax.errors import UserError
from attn_flax.files import local_path
from attn_flax.study.plan import Planned, seed_folder
from attn_flax.training import artifacts, run_folder
from attn_flax.training.artifacts import File, Folder, holds_run
from attn_flax.training.config import Config

# The variants differ in attention, and the runs of a variant in seed.
_MAY_DIFFER = ('seed', 'model.attention')


class Member(NamedTuple):
  """One run of a variant.

  Attributes:
    seed: its seed.
    folder: its run folder.
    config: its resolved config; None where the folder has none.
    record: the content of its `config.json`, with command, versions and device; {} without one.
    error: why there is nothing to evaluate; '' for a usable run.
    content: the digest of its images, where they are a folder and `dataset.json` has one.
  """

  seed: int
  folder: pathlib.Path
  config: Config | None
  record: artifacts.Json
  error: str = ''
  content: str | None = None


Groups = dict[str, list[Member]]


def of_plan(planned: Sequence[Planned], errors: Mapping[str, str]) -> Groups:
  """The runs of a study by variant; `errors` has the reasons why runs failed, by `Planned.name`."""
  groups: Groups = {}
  for run in planned:
    member = _read(run.folder, errors.get(run.name, ''))
    groups.setdefault(run.variant, []).append(member._replace(seed=run.seed))
  return groups


def of_folders(folders: Sequence[pathlib.Path]) -> tuple[Groups, str]:
  """Groups run folders by variant: runs whose configs differ in the seed alone are one variant.

  A variant is called by the shortest name of its folders; a folder `seed<k>` counts by the name of
  its parent. The baseline is the variant without attention or, where all have some, the first.

  Args:
    folders: run folders, or folders of variants and studies, which stand for their `seed<k>`.

  Returns:
    The runs by variant, the baseline first; and the name of the baseline.

  Raises:
    UserError: for a folder without a run, two variants of one name, or a variant with a seed twice.
  """
  found: dict[str, list[Member]] = {}
  runs = [run for named in folders for run in _runs_in(named)]
  for member in _of_one_place([_read(run, '') for run in runs]):
    folder = member.folder
    if member.config is None:
      raise UserError(
        f'{folder} holds no run (no {File.CONFIG}, and no seed<k>); name the folders of runs, '
        'variants or studies in --workdirs'
      )
    key = json.dumps(_stripped(member.config, ('seed',)), sort_keys=True)
    found.setdefault(key, []).append(member)
  groups: Groups = {}
  for members in found.values():
    name = _name(members)
    if name in groups:
      raise UserError(f'two different variants have folders called {name!r}; rename one of them')
    groups[name] = sorted(members, key=lambda member: member.seed)
  for name, members in groups.items():
    seeds = [member.seed for member in members]
    if len(set(seeds)) < len(seeds):
      raise UserError(f'the runs of {name} have the seeds {seeds}; name each seed once')
  plain = [
    name
    for name, (member, *_) in groups.items()
    if member.config is not None and not member.config.model.attention
  ]
  baseline = (plain or list(groups))[0]
  return {baseline: groups.pop(baseline), **groups}, baseline


def check_controlled(groups: Groups, baseline: str, also: Sequence[str] = ()) -> Config:
  """Checks that all runs differ from those of the baseline in attention and seed alone.

  Folders of images are the same if their digests are, wherever they are.

  Args:
    groups: the runs by variant.
    baseline: the variant that the others are compared with.
    also: further fields that may differ, such as a learning rate that was swept.

  Returns:
    The config of the baseline's first run.

  Raises:
    UserError: for a run with other differences, and where the baseline has no run.
  """
  allowed = (*_MAY_DIFFER, *also)
  runs = _of_one_place([member for members in groups.values() for member in members])
  fields = {
    member.folder: _stripped(member.config, allowed) for member in runs if member.config is not None
  }
  contents = {member.folder: member.content for member in runs}
  begun = [(m.folder, m.config) for m in groups[baseline] if m.config is not None]
  if not begun:
    raise UserError(f'no run of the baseline {baseline} has begun; train one to compare with')
  reference, config = begun[0]
  for folder in fields:
    found = run_folder.difference(fields[reference], fields[folder])
    if None not in (pair := (contents[reference], contents[folder])) and pair[0] != pair[1]:
      found['digest of the images'] = pair
    if found:
      pairs = [f'{field}: {new!r} and {old!r}' for field, (old, new) in found.items()]
      raise UserError(
        f'{folder} and {reference} differ in more than model.attention and cannot '
        f'be compared ({"; ".join(pairs[:6])}); train them alike, or report on them separately'
      )
  return config


def _of_one_place(members: Sequence[Member]) -> list[Member]:
  """Runs on the same images, with one `data.dir` for all: one that exists, or else the first."""
  places: dict[str, list[str]] = {}
  for member in members:
    if member.content is not None and member.config is not None:
      places.setdefault(member.content, []).append(str(member.config.data.dir))
  for folders in places.values():
    folders.sort(key=lambda folder: not local_path(folder).is_dir())
  moved = []
  for member in members:
    if member.content in places and member.config is not None:
      config = member.config.copy_and_resolve_references()
      config.data.dir = places[member.content][0]
      member = member._replace(config=config)
    moved.append(member)
  return moved


def _stripped(config: Config, fields: Sequence[str]) -> dict[str, object]:
  """A flattened config without some fields, all fields below them, and those of no effect."""
  flat = run_folder.flatten(run_folder.resolved(config))
  fields = (*fields, *run_folder.free_fields(config))
  return {
    key: value
    for key, value in flat.items()
    if not any(key == field or key.startswith(field + '.') for field in fields)
  }


def _read(folder: pathlib.Path, error: str) -> Member:
  if not holds_run(folder):
    return Member(-1, folder, None, {}, error or 'not trained yet')
  record, config = artifacts.read_json(folder / File.CONFIG), run_folder.load_config(folder)
  if not error and not any((folder / Folder.CHECKPOINTS).glob('[0-9]*')):
    error = 'no checkpoint yet'
  # An imported network has neither metrics nor a result: it was trained elsewhere.
  begun = (folder / File.METRICS).exists()
  if not error and begun and not (folder / File.RESULT).exists():
    error = 'not finished'
  path = folder / File.DATASET
  content = artifacts.read_json(path).get('content') if path.exists() else None
  return Member(config.seed, folder, config, record, error, content)


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folder itself if it is one of a run, else its `seed*` folders and those of its variants."""
  if holds_run(folder):
    return [folder]
  runs = seed_folder('*')
  found = [*folder.glob(f'{runs}/{File.CONFIG}'), *folder.glob(f'*/{runs}/{File.CONFIG}')]
  return sorted(path.parent for path in found) or [folder]


def _name(members: Sequence[Member]) -> str:
  folders = [(member.folder.absolute(), member.seed) for member in members]
  names = [f.parent.name if f.name == seed_folder(seed) else f.name for f, seed in folders]
  return min(names, key=lambda name: (len(name), name))

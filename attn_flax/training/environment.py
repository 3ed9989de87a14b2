"""The environment of a run: what a result depends on besides its config."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys

import jax

_PACKAGES = (
  'attn_flax jax jaxlib flax optax orbax-checkpoint numpy tensorflow-datasets grain ml-collections'
).split()


def without_home(text: str) -> str:
  """A text with '~' in place of the user's home folder, so that a report does not show it."""
  home = os.path.expanduser('~')
  return text.replace(home, '~') if len(home) > 1 else text


def environment() -> dict[str, object]:
  """Package versions, devices, commit, command and date, as JSON values."""
  versions = {}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = 'not installed'
  device = jax.devices()[0]
  return {
    'packages': versions,
    'python': platform.python_version(),
    'platform': device.platform,
    'device': device.device_kind,
    'device_count': jax.device_count(),
    'cpu_count': os.cpu_count(),
    'commit': _commit(),
    'command': shlex.join(['python', *sys.argv]),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
  }


def _commit() -> str | None:
  """The commit of the source, with '+' where files differ from it; None outside a checkout."""
  here = pathlib.Path(__file__).parent
  try:
    git = ['git', '--no-optional-locks', '-C', str(here)]
    head = subprocess.run([*git, 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True)
    status = subprocess.run(
      [*git, 'status', '--porcelain', '--untracked-files=no'],
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return head.stdout.strip() + ('+' if status.stdout.strip() else '')

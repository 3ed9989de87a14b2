"""Who imports whom: a directed acyclic graph, read off the sources."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / 'attn_flax').rglob('*.py'))}


def imported(path, everywhere=False):
  """Names of the modules that a file imports: when it is loaded, or `everywhere`."""
  tree = ast.parse(path.read_text())
  nodes = ast.walk(tree) if everywhere else at_load(tree)
  names = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} imports relatively'
      for alias in node.names:  # A name may be a module of the package, or something inside it.
        inner = f'{node.module}.{alias.name}'
        names.add(inner if inner in MODULES else node.module)
  return names


def at_load(node):
  """The nodes that are executed when a module is loaded: not those in functions or type checks."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test):
      continue
    if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      yield child
      yield from at_load(child)


def own(names):
  return {name for name in names if name.split('.')[0] == 'attn_flax'}


LEAVES = ('attn_flax.errors', 'attn_flax.layers', 'attn_flax.cost')
# What a part of the library may import of it, beside itself; the first prefix that fits counts.
# The parts that are not listed hold files, clocks and flags, and may import anything.
RESTRICTED = {
  'attn_flax.errors': (),
  'attn_flax.layers': ('attn_flax.errors',),
  'attn_flax.cost': ('attn_flax.errors',),
  'attn_flax.memory': (),
  'attn_flax.attention': LEAVES,
  'attn_flax.models': ('attn_flax.attention', *LEAVES),
  'attn_flax.explain': (
    'attn_flax.models',
    'attn_flax.attention',
    'attn_flax.errors',
    'attn_flax.layers',
  ),
  'attn_flax.data': ('attn_flax.errors',),
  'attn_flax.metrics': ('attn_flax.errors',),
  'attn_flax.optim': ('attn_flax.errors',),
  'attn_flax.report': ('attn_flax.statistics', 'attn_flax.errors'),
  'attn_flax.statistics': ('attn_flax.errors',),
  'attn_flax.steps': ('attn_flax.metrics', 'attn_flax.optim', 'attn_flax.errors'),
}


def lies_in(name, package):
  return name == package or name.startswith(package + '.')


def test_the_graph_has_no_cycle():
  graph = {name: own(imported(path)) - {name} for name, path in MODULES.items()}
  assert sum(map(len, graph.values())) > 40
  order = list(graphlib.TopologicalSorter(graph).static_order())
  assert set(MODULES) <= set(order)


@pytest.mark.parametrize('part', RESTRICTED)
def test_a_part_knows_only_what_it_may(part):
  """Also inside its functions."""
  members = [name for name in MODULES if lies_in(name, part)]
  assert members
  for name in members:
    for other in own(imported(MODULES[name], everywhere=True)):
      assert any(lies_in(other, package) for package in (part, *RESTRICTED[part])), (name, other)


def test_networks_and_mechanisms_meet_in_one_place():
  """Only `models/__init__` imports both, and of the mechanisms only their table."""
  for name, path in MODULES.items():
    names = own(imported(path, everywhere=True))
    if name.startswith('attn_flax.models'):
      found = {other for other in names if other.startswith('attn_flax.attention')}
      assert found <= ({'attn_flax.attention'} if name == 'attn_flax.models' else set()), name
    if name.startswith('attn_flax.attention'):
      assert not any(other.startswith('attn_flax.models') for other in names), name


def test_configs_import_only_each_other_and_their_container():
  for path in (ROOT / 'configs').glob('*.py'):
    roots = {name.split('.')[0] for name in imported(path, everywhere=True)}
    assert roots <= {'configs', 'ml_collections'} | set(sys.stdlib_module_names), path.name


def test_nothing_imports_the_tests_the_configs_or_the_command_line():
  for name, path in MODULES.items():
    roots = {other.split('.')[0] for other in imported(path, everywhere=True)}
    assert not roots & {'configs', 'main', 'tests', 'benchmarks'}, name


def test_the_report_touches_no_device():
  members = [name for name in MODULES if lies_in(name, 'attn_flax.report')]
  for name in members:
    roots = {other.split('.')[0] for other in imported(MODULES[name], everywhere=True)}
    assert not roots & {'jax', 'flax', 'optax'}, name


def test_importing_the_library_is_light():
  """Neither TensorFlow nor torch, nor what takes seconds and is needed later, if at all."""
  heavy = 'tensorflow torch tensorflow_datasets sklearn orbax tensorboardX PIL grain matplotlib'
  code = f'import sys, attn_flax; print(*{set(heavy.split())!r} & set(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True
  )
  assert done.stdout.split() == []

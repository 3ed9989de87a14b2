"""Which module imports which, read from the sources: a directed acyclic graph."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / 'attn_flax').rglob('*.py'))}

CONFIGS = {module_name(path): path for path in sorted((ROOT / 'configs').rglob('*.py'))}


def imported(path, everywhere=False):
  """Names of the modules that a file imports: when it is loaded, or also in functions."""
  tree = ast.parse(path.read_text())
  nodes = ast.walk(tree) if everywhere else at_load(tree)
  names = set()
  for node in nodes:
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} imports relatively'
      names |= {origin(node.module, alias.name) for alias in node.names}
  return names


def origin(module, name):
  """The module that a name comes from: the module itself, or the one a package exports it from."""
  if f'{module}.{name}' in MODULES | CONFIGS:
    return f'{module}.{name}'
  path = MODULES.get(module)
  if path is not None and path.name == '__init__.py':
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.ImportFrom) and name in {a.asname or a.name for a in node.names}:
        return origin(node.module, name)
  return module


def at_load(node):
  """The nodes that are executed when a module is loaded, without functions and type checks."""
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.If) and 'TYPE_CHECKING' in ast.unparse(child.test):
      continue
    if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      yield child
      yield from at_load(child)


def own(names):
  return {name for name in names if name.split('.')[0] == 'attn_flax'}


# The stack, top to bottom: a part may import itself and the parts in the rows below.
STACK = (
  ('commands',),
  ('report',),
  ('study',),
  ('training',),
  ('interop',),
  ('explain', 'costs'),
  ('models',),
  ('data', 'attention'),
  ('tasks', 'layers', 'batching', 'files'),
  ('errors',),
)
LEVEL = {part: level for level, parts in enumerate(STACK) for part in parts}


def part_of(name):
  """The part of the package that a module belongs to; '' for the package itself."""
  return name.partition('.')[2].partition('.')[0]


def test_the_page_on_architecture_shows_the_stack():
  table = (ROOT / 'docs' / 'architecture.md').read_text().partition('| part | holds |')[2]
  rows = re.findall(r'^\| (`.*?) \|', table.partition('\n\n')[0], re.M)
  found = [tuple(re.findall(r'attn_flax/(\w+)', row)) for row in rows]
  assert [set(parts) for parts in found] == [set(parts) for parts in STACK]


def test_every_part_has_its_place_in_the_stack():
  assert {part_of(name) for name in MODULES} == {'', *LEVEL}


@pytest.mark.parametrize('part', LEVEL)
def test_no_import_runs_up_the_stack(part):
  """Imports inside functions are checked, too."""
  for name, path in MODULES.items():
    if part_of(name) == part:
      for other in own(imported(path, everywhere=True)):
        above = part_of(other)
        assert above == part or LEVEL.get(above, -1) > LEVEL[part], f'{name} imports {other}'


def test_the_graph_has_no_cycle():
  """Imports inside functions are counted, too: they must not hide a cycle."""
  files = MODULES | CONFIGS
  graph = {name: imported(path, everywhere=True) & set(files) for name, path in files.items()}
  # An `__init__.py` only re-exports names of its own modules.
  graph = {name: others for name, others in graph.items() if files[name].name != '__init__.py'}
  assert sum(map(len, graph.values())) > 200
  assert graph['configs.base'] == {'configs.presets.mechanisms', 'configs.presets.words'}
  order = list(graphlib.TopologicalSorter(graph).static_order())
  assert set(graph) <= set(order)


def test_packages_hold_no_code():
  """Only exports, and the version."""
  for path in [path for path in MODULES.values() if path.name == '__init__.py']:
    for node in ast.parse(path.read_text()).body:
      is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
      is_name = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
        '__all__',
        '__version__',
      )
      assert is_text or is_name or isinstance(node, ast.ImportFrom), (path, ast.unparse(node))


def test_networks_and_mechanisms_meet_in_one_place():
  """Only `models/create` imports both; other networks import only the protocols of mechanisms."""
  for name, path in MODULES.items():
    names = own(imported(path, everywhere=True))
    found = {other for other in names if part_of(other) == 'attention'}
    if part_of(name) == 'models':
      names_too = {'attn_flax.attention.names'} if name == 'attn_flax.models.create' else set()
      assert found <= {'attn_flax.attention.protocols'} | names_too, name


def test_configs_import_only_each_other_and_their_container():
  for path in (ROOT / 'configs').rglob('*.py'):
    roots = {name.split('.')[0] for name in imported(path, everywhere=True)}
    assert roots <= {'configs', 'ml_collections'} | set(sys.stdlib_module_names), path.name


def test_nothing_imports_the_tests_the_configs_or_the_command_line():
  """By an import statement; `commands.configs` finds config files by their names."""
  for name, path in MODULES.items():
    roots = {other.split('.')[0] for other in imported(path, everywhere=True)}
    assert not roots & {'configs', 'main', 'tests', 'benchmarks'}, name


def test_the_report_touches_no_device():
  members = [name for name in MODULES if part_of(name) == 'report']
  for name in members:
    roots = {other.split('.')[0] for other in imported(MODULES[name], everywhere=True)}
    assert not roots & {'jax', 'flax', 'optax'}, name


def test_importing_the_library_is_light():
  """It imports neither TensorFlow nor torch, nor what only training needs."""
  heavy = 'tensorflow torch tensorflow_datasets sklearn orbax tensorboardX PIL grain matplotlib'
  heavy += ' optax scipy attn_flax.data'
  code = f'import sys, attn_flax; print(*{set(heavy.split())!r} & set(sys.modules))'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True
  )
  assert done.stdout.split() == []

"""Reads the files of a run without the code that wrote them."""

import json
import pathlib
import struct

import jax
import numpy as np
import orbax.checkpoint as ocp
from tensorboardX.proto import event_pb2


def read(workdir, name='result.json'):
  """A JSON file."""
  return json.loads((pathlib.Path(workdir) / name).read_text())


def scores(workdir):
  """The test scores of the result, of the raw weights and, if there are any, the averaged ones."""
  result = read(workdir)
  names = [f'test_{kind}{score}' for kind in ('', 'ema_') for score in ('loss', 'top1', 'top5')]
  return {name: result[name] for name in (*names, 'test_count') if name in result}


def metrics(workdir):
  """The lines of `metrics.jsonl`, each of which must be complete."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def steps(workdir):
  """Steps of the checkpoints."""
  return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def state(workdir, step):
  """The arrays of a checkpoint by path, read without a network that gives their shapes."""
  folder = (workdir / 'checkpoints' / str(step) / 'state').absolute()
  with ocp.PyTreeCheckpointer() as reader:
    as_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata.tree
    )
    tree = reader.restore(folder, restore_args=as_numpy)
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_arrays(actual, expected):
  """Checks that two dictionaries of arrays agree bit for bit."""
  assert actual.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(actual[name], array, strict=True, err_msg=name)


def events(workdir):
  """What TensorBoard shows: {tag: {step: value}}, in the order of the files.

  An event file is a TFRecord: length (uint64), its checksum (uint32), the record, its checksum. A
  start event makes TensorBoard forget what came before it at that step and later ones.
  """
  shown = {}
  for path in sorted((workdir / 'tensorboard').iterdir()):
    content = path.read_bytes()
    position = 0
    while position < len(content):
      (length,) = struct.unpack_from('<Q', content, position)
      event = event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
      position += 12 + length + 4
      if event.session_log.status == event_pb2.SessionLog.START:
        for values in shown.values():
          for step in [step for step in values if step >= event.step]:
            del values[step]
      for value in event.summary.value:
        shown.setdefault(value.tag, {})[event.step] = value.simple_value
    assert position == len(content)
  return shown

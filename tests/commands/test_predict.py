"""`--mode=predict` and `--mode=explain` on a user's images."""

import collections
import csv
import functools
import json
import pathlib
import runpy
import shutil

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attn_flax import UserError, explain
from attn_flax.commands import album, command_line, predict
from attn_flax.commands import explain as explain_run
from attn_flax.commands.explain import METHODS
from attn_flax.data.decode import central_crop
from attn_flax.explain import perturbation
from attn_flax.training import artifacts, run_folder, trained_run
from attn_flax.training.checkpoints import Checkpoints
from attn_flax.training.experiment import open_experiment
from configs import cbam

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


@pytest.fixture(scope='module')
def workdir(small_dataset, quick_compilation, tmp_path_factory):
  """The folder of a run with random weights, as if it had been imported."""
  folder = tmp_path_factory.mktemp('runs') / 'cbam'
  experiment = open_experiment(cbam.get_config('smoke'))
  run_folder.open_run(folder, experiment.config)
  artifacts.write_json(folder / 'dataset.json', experiment.describe_data())
  checkpoints = Checkpoints(folder)
  state = experiment.fresh_state(jax.random.key(0))
  checkpoints.save(1, state, {'train_seconds': 0.0, 'compile_seconds': 0.0}, None)
  checkpoints.close()
  return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """A folder with images of several sizes, one of them in a subfolder, and two broken ones."""
  folder = tmp_path_factory.mktemp('photos')
  (folder / 'below').mkdir()
  rng = np.random.default_rng(0)
  for name, shape in (('b10.png', (40, 50, 3)), ('b9.png', (32, 32, 3)), ('below/c.png', (64, 33))):
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
  (folder / 'empty.jpg').write_bytes(b'')
  (folder / 'text.jpg').write_text('no image')
  return folder


def run(*arguments):
  return command_line.run(['main.py', *map(str, arguments)])


def expected_probabilities(workdir, path):
  """The network's probabilities, computed from the checkpoint without the code under test."""
  experiment = open_experiment(run_folder.load_config(workdir), trains=False)
  checkpoints = Checkpoints(workdir, read_only=True)
  state, _ = checkpoints.restore(1, experiment.abstract_state())
  checkpoints.close()
  spec = experiment.dataset.spec
  pixels = central_crop(path.read_bytes(), 32, resize=32) / 255
  image = (pixels - np.array(spec.mean)) / np.array(spec.std)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  logits = experiment.model.apply(variables, image[None].astype(np.float32), train=False)
  return np.asarray(jax.nn.softmax(logits))[0]


def test_the_likeliest_classes_are_printed(workdir, photos, capsys):
  assert run('--mode=predict', f'--workdir={workdir}', f'--images={photos}/b10.png') == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == f'{photos}/b10.png' and len(lines) == 6
  expected = expected_probabilities(workdir, photos / 'b10.png')
  for line, label in zip(lines[1:], np.argsort(-expected), strict=False):
    percent, name = line.split()
    assert name == str(label)
    assert float(percent.rstrip('%')) == pytest.approx(100 * expected[label], abs=0.02)


def test_what_pillow_says_of_a_readable_image_is_not_shown(workdir, tmp_path, recwarn, capfd):
  """Pillow's warnings name neither the file nor a fix."""
  path = tmp_path / 'short_exif.jpg'
  Image.new('RGB', (40, 40)).save(path, exif=b'Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01')
  assert run('--mode=predict', f'--workdir={workdir}', f'--images={path}') == 0
  assert not recwarn.list and 'EXIF' not in capfd.readouterr().err


def test_a_folder_is_read_in_natural_order_and_what_is_broken_is_named(workdir, photos, capsys):
  assert run('--mode=predict', f'--workdir={workdir}', f'--images={photos}') == 0
  printed = capsys.readouterr()
  shown = [line for line in printed.out.splitlines() if line.startswith('/')]
  assert shown == [f'{photos}/{name}' for name in ('b9.png', 'b10.png', 'below/c.png')]
  assert len(printed.err.splitlines()) == 2
  assert 'empty.jpg' in printed.err and 'text.jpg' in printed.err


def test_predictions_are_written_as_a_table(workdir, photos, tmp_path, capsys):
  """It holds what is printed without `--output`, but with all digits; broken images are named."""
  arguments = ['--mode=predict', f'--workdir={workdir}', f'--images={photos}']
  table = tmp_path / 'new' / 'predictions.csv'
  for _ in range(2):  # An older table is replaced.
    assert run(*arguments, f'--output={table}') == 0
    printed = capsys.readouterr()
    assert printed.out == f'{table} holds the likeliest classes of 3 images\n'
    assert 'empty.jpg' in printed.err and 'text.jpg' in printed.err
  assert list(table.parent.iterdir()) == [table]
  with table.open(newline='') as file:
    rows = list(csv.DictReader(file))
  names = ('b9.png', 'b10.png', 'below/c.png')
  assert [row['file'] for row in rows] == [f'{photos}/{name}' for name in names]
  numbers = [f'_{k}' for k in range(2, 6)]
  columns = [f'{name}{k}' for k in ('', *numbers) for name in ('class', 'probability')]
  assert list(rows[0]) == ['file', *columns]
  expected = expected_probabilities(workdir, photos / 'b10.png')
  for k, label in zip(('', *numbers), np.argsort(-expected), strict=False):
    assert rows[1][f'class{k}'] == str(label)
    assert float(rows[1][f'probability{k}']) == pytest.approx(expected[label], rel=1e-3)


@pytest.mark.parametrize('name', ['table', 'table.txt', 'folder.csv'])
def test_what_is_no_csv_file_is_refused(workdir, photos, tmp_path, capsys, name):
  (tmp_path / 'folder.csv').mkdir()
  arguments = ['--mode=predict', f'--workdir={workdir}', f'--images={photos}/b9.png']
  assert run(*arguments, f'--output={tmp_path}/{name}') == 2
  assert f'--output={tmp_path}/{name} is not a CSV file; name one' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['folder.csv']


def test_a_table_that_cannot_be_finished_leaves_the_older_one(workdir, photos, tmp_path, capsys):
  table = tmp_path / 'predictions.csv'
  table.write_text('older')
  arguments = ['--mode=predict', f'--workdir={workdir}', f'--images={photos}/text.jpg']
  assert run(*arguments, f'--output={table}') == 2
  assert 'no image can be read; name others in --images' in capsys.readouterr().err
  assert table.read_text() == 'older' and list(tmp_path.iterdir()) == [table]


def test_names_with_commas_and_bytes_that_are_no_text_come_back(tmp_path):
  names = ['a, "b"\nc.png', 'd\udcff.png']
  found = [(photo, [('cat', 0.75), ('dog', 0.25)]) for photo in map(pathlib.Path, names)]
  assert predict.write_table(tmp_path / 'x.csv', found) == 2
  with (tmp_path / 'x.csv').open(newline='', errors='surrogateescape') as file:
    rows = list(csv.reader(file))
  assert rows[0] == ['file', 'class', 'probability', 'class_2', 'probability_2']
  assert rows[1:] == [[name, 'cat', '0.75', 'dog', '0.25'] for name in names]


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--mode=predict'], '--images'),
    (['--mode=explain'], '--images'),
    (['--mode=predict', '--images=/no/such/file.png'], 'does not exist'),
    (['--mode=explain', '--images={photos}/text.jpg'], 'no image can be read'),
    (['--mode=predict', '--images={photos}/text.jpg'], 'no image can be read'),
    (
      ['--mode=explain', '--images={photos}/b9.png', '--methods=gradcam'],
      "did you mean 'grad_cam'",
    ),
    (['--mode=explain', '--images={photos}/b9.png', '--methods=attention_rollout'], 'transformer'),
    (['--mode=explain', '--images={photos}/b9.png', '--methods='], '--methods is empty'),
    (['--mode=explain', '--images={photos}/b9.png', '--stage=9'], 'stage'),
    (
      ['--mode=explain', '--images={photos}/b9.png', '--stage=2', '--methods=own_map,occlusion'],
      'stage=2 does nothing for own_map, occlusion; leave it out, or name one of grad_cam',
    ),
  ],
)
def test_mistakes_are_one_line(workdir, photos, capsys, arguments, message):
  arguments = [argument.format(photos=photos) for argument in arguments]
  assert run(f'--workdir={workdir}', *arguments) == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if 'left out' not in line]
  assert len(lines) == 1 and lines[0].startswith('error: ')
  assert message in lines[0]


def test_what_explains_nothing_is_refused(workdir, photos, monkeypatch, tmp_path):
  """No method, and a method without a map of the network; nothing is drawn."""
  images = [str(photos / 'b9.png')]
  with pytest.raises(UserError, match='methods is empty; name some of grad_cam'):
    explain_run.explain_run(workdir, images, [])
  monkeypatch.setitem(METHODS, 'own_map', lambda *args: None)
  with pytest.raises(UserError, match='own_map has no map of this network; .* such as grad_cam'):
    explain_run.explain_run(workdir, images, ['own_map'], output=tmp_path / 'out')
  assert not list((tmp_path / 'out').rglob('*.png'))


def test_a_folder_without_a_run_is_refused(tmp_path, photos):
  with pytest.raises(UserError, match='config.json does not exist'):
    predict.open_trained(tmp_path)


def test_images_are_explained_with_overlays_and_scores(workdir, photos, capsys):
  arguments = ['--mode=explain', f'--workdir={workdir}', f'--images={photos}/b9.png,{photos}/below']
  assert run(*arguments) == 0
  content = json.loads((workdir / 'explanations.json').read_text())
  assert [row['image'] for row in content['images']] == [
    f'{photos}/b9.png',
    f'{photos}/below/c.png',
  ]
  trained = predict.open_trained(workdir)
  for row in content['images']:
    with Image.open(row['picture']) as picture:
      height, width = row['drawn']  # Drawn enlarged, beside its two maps.
      assert picture.width > 3 * width * 256 / max(height, width) and picture.height < 512
    assert len(row['predictions']) == 5
    assert set(row['maps']) == {'grad_cam', 'own_map'}
    for scores in row['maps'].values():
      assert 0 <= scores['insertion'] <= 1 and 0 <= scores['deletion'] <= 1
      assert -0.5 <= scores['road'] <= 0.5
  pixels = np.stack([trained.read(photos / name) for name in ('b9.png', 'below/c.png')])
  x = trained.augmentation.evaluate(pixels)
  logits = trained.model.apply(trained.variables, x, train=False)
  labels = np.argmax(logits, 1)
  assert [row['label'] for row in content['images']] == labels.tolist()
  network = trained.model, trained.variables, x
  maps = {
    'grad_cam': explain.grad_cam(*network, labels),
    'own_map': explain.own_map(*network),
  }
  for method, found in maps.items():
    scores = perturbation.faithfulness(*network, labels, found)
    for i, row in enumerate(content['images']):
      told = row['maps'][method]
      expected = {name: float(values[i]) for name, values in scores.items()}
      expected |= {'largest': float(found[i].max()), 'smallest': float(found[i].min())}
      expected |= {'empty': not np.any(found[i])}
      assert told == pytest.approx(expected, rel=1e-3, abs=1e-5)


def _drawn(monkeypatch):
  """Records overlays instead of drawing them: a list of (photograph, maps, told, fonts)."""
  noted = []
  monkeypatch.setattr(album, 'overlays', lambda *args: noted.append(args) or b'picture')
  return noted


def test_chunks_of_any_length_are_traced_once_and_stay_in_order(
  workdir, photos, monkeypatch, capsys
):
  """Four good images and an unreadable one, two files at a time: chunks of 2, 1 and 1 images."""
  traces = collections.Counter()

  def counted(name, function):
    @functools.partial(jax.jit, static_argnums=0, static_argnames='stage')
    def run(model, *args, **fields):
      traces[name] += 1
      return function(model, *args, **fields)

    return run

  evaluate = trained_run._probabilities.__wrapped__

  @functools.partial(jax.jit, static_argnames=('model', 'augmentation', 'probabilities'))
  def probabilities(model, augmentation, probabilities, variables, images):
    traces['probabilities'] += 1
    return evaluate(model, augmentation, probabilities, variables, images)

  monkeypatch.setattr(trained_run, 'BATCH', 2)
  monkeypatch.setattr(trained_run, '_probabilities', probabilities)
  for name in ('grad_cam', 'own_map'):
    monkeypatch.setitem(METHODS, name, counted(name, METHODS[name]))
  monkeypatch.setattr(explain_run, 'faithfulness', counted('scores', perturbation.faithfulness))
  noted = _drawn(monkeypatch)
  good = [photos / name for name in ('b9.png', 'b10.png', 'below/c.png', 'b10.png')]
  names = [str(path) for path in (*good[:2], photos / 'text.jpg', *good[2:])]
  content = explain_run.explain_run(workdir, names, ['grad_cam', 'own_map'])
  sizes = {values.shape for values in noted[0][1].values()}
  assert traces == {'probabilities': 1, 'grad_cam': 1, 'own_map': 1, 'scores': len(sizes)}
  assert [row['image'] for row in content['images']] == [str(path) for path in good]
  assert list(content['unreadable']) == [str(photos / 'text.jpg')]

  trained = predict.open_trained(workdir)
  pixels = np.stack([trained.read(path) for path in good])
  x = trained.augmentation.evaluate(pixels)
  network = trained.model, trained.variables, x
  probability = np.asarray(jax.nn.softmax(trained.model.apply(*network[1:], train=False)))
  labels = probability.argmax(1)
  cams, own = explain.grad_cam(*network, labels), explain.own_map(*network)
  assert len(noted) == 4
  for i, (photo, maps, told, _) in enumerate(noted):
    with Image.open(good[i]) as whole:
      np.testing.assert_array_equal(photo.pixels, whole.convert('RGB'))
    name, share = told.explained, told.probability
    np.testing.assert_allclose(maps['grad_cam'], cams[i], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(maps['own_map'], own[i], rtol=1e-3, atol=1e-5)
    assert name == trained.class_names[labels[i]]
    assert share == pytest.approx(probability[i].max(), rel=1e-3)
  used = np.stack([maps['grad_cam'] for _, maps, *_ in noted])
  scores = perturbation.faithfulness(*network, labels, used)
  for i, row in enumerate(content['images']):
    assert row['picture'] == str(workdir / f'explanations/{i + 1:04}_{good[i].stem}.png')
    assert row['label'] == labels[i]
    for score, values in scores.items():
      assert row['maps']['grad_cam'][score] == pytest.approx(float(values[i]), rel=1e-3, abs=1e-5)

  found = dict(enumerate(predict.predict_files(workdir, names)))
  assert [path for path, _ in found.values()] == good
  for i, (_, answers) in found.items():
    name, share = answers[0]
    assert name == trained.class_names[labels[i]]
    assert share == pytest.approx(probability[i].max(), rel=1e-3)
  assert traces['probabilities'] == 1
  assert 'text.jpg' in capsys.readouterr().err


def test_what_is_empty_in_the_result_is_shown_as_empty(workdir, photos, monkeypatch):
  """Maps that are zero or not finite are empty; one that is negative everywhere is drawn."""
  made = {'grad_cam': 0.0, 'hires_cam': np.nan, 'layer_cam': np.inf, 'occlusion': -1.0}
  for name, value in made.items():
    fixed = lambda model, variables, x, labels, stage=None, value=value: (  # noqa: E731
      np.linspace(1, 2, len(x) * 16, dtype=np.float32).reshape(len(x), 4, 4) * np.float32(value)
    )
    monkeypatch.setitem(METHODS, name, fixed)
  scores = lambda model, variables, x, *_, **__: {'road': np.full(len(x), np.nan)}  # noqa: E731
  monkeypatch.setattr(explain_run, 'faithfulness', scores)
  texts = []
  text = Figure.text
  monkeypatch.setattr(
    Figure, 'text', lambda self, x, y, s, *a, **k: texts.append(s) or text(self, x, y, s, *a, **k)
  )
  explain_run.explain_run(workdir, [str(photos / 'b9.png')], list(made))
  assert texts.count('empty') == 3

  def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')

  content = json.loads((workdir / 'explanations.json').read_text(), parse_constant=refuse)
  told = content['images'][0]['maps']
  assert {name: scores['empty'] for name, scores in told.items()} == {
    'grad_cam': True,
    'hires_cam': True,
    'layer_cam': True,
    'occlusion': False,
  }
  assert told['occlusion'] == {'empty': False, 'smallest': -2, 'largest': -1, 'road': None}
  assert told['grad_cam']['largest'] == told['grad_cam']['smallest'] == 0
  assert told['hires_cam']['largest'] is told['layer_cam']['largest'] is None


def test_classes_that_share_a_name_are_told_apart(workdir, photos, monkeypatch, tmp_path):
  """The class that is explained is the likeliest one, not the first of that name."""
  folder = tmp_path / 'run'
  shutil.copytree(workdir, folder)
  described = artifacts.read_json(folder / 'dataset.json')
  described['class_names'] = ['crane'] * 9 + ['other']
  artifacts.write_json(folder / 'dataset.json', described)
  probabilities = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.4, 0.09, 0.23], np.float32)
  monkeypatch.setattr(
    trained_run, '_probabilities', lambda *args: np.tile(probabilities, (len(args[-1]), 1))
  )
  labels = []

  def method(model, variables, x, y):
    labels.extend(y.tolist())
    return np.ones((len(x), 4, 4), np.float32)

  monkeypatch.setitem(METHODS, 'own_map', method)
  monkeypatch.setattr(explain_run, 'faithfulness', lambda *args, **fields: {})
  noted = _drawn(monkeypatch)
  content = explain_run.explain_run(folder, [str(photos / 'b9.png')], ['own_map'])
  (row,) = content['images']
  assert labels == [7] and row['label'] == 7 and noted[0][2].explained == 'crane (7)'
  assert list(row['predictions']) == ['crane (7)', 'other', 'crane (8)', 'crane (6)', 'crane (5)']


def test_overlays_of_an_earlier_run_are_removed(workdir, photos, monkeypatch):
  """Files that its result names are removed, and nothing else in the folder."""
  monkeypatch.setitem(METHODS, 'own_map', lambda *args: np.ones((len(args[2]), 4, 4), np.float32))
  monkeypatch.setattr(explain_run, 'faithfulness', lambda *args, **fields: {})
  _drawn(monkeypatch)
  shutil.rmtree(workdir / 'explanations', ignore_errors=True)
  (workdir / 'explanations.json').unlink(missing_ok=True)
  own = workdir / 'explanations' / 'my_notes.png'
  own.parent.mkdir()
  own.touch()
  for images, expected in (
    (['b9.png', 'b10.png'], {'0001_b9.png', '0002_b10.png'}),
    (['b9.png'], {'0001_b9.png'}),
    (['b10.png'], {'0001_b10.png'}),
  ):
    explain_run.explain_run(workdir, [str(photos / name) for name in images], ['own_map'])
    assert {path.name for path in own.parent.iterdir()} == {*expected, own.name}
    assert (workdir / 'explanations.png').exists() == (len(images) > 1)  # The page of all.
  (workdir / 'explanations.json').write_text('damaged')
  explain_run.explain_run(workdir, [str(photos / 'b9.png')], ['own_map'])
  assert (own.parent / '0001_b10.png').exists()


def test_importing_starts_no_device(monkeypatch):
  def start(*_):
    raise AssertionError('a key is made at import')

  monkeypatch.setattr(jax.random, 'key', start)
  runpy.run_path(explain_run.__file__)


def test_every_method_has_a_name():
  """The command line offers every map that the library makes."""
  library = set(explain.__all__) & {name for name in dir(explain) if 'cam' in name}
  others = {'integrated_gradients', 'smooth_grad', 'occlusion', 'own_map', 'attention_rollout'}
  assert set(METHODS) == library | others


@pytest.mark.slow
def test_other_methods_explain_too(workdir, photos):
  methods = [name for name in METHODS if name != 'attention_rollout']
  content = explain_run.explain_run(workdir, [str(photos / 'b9.png')], methods)
  assert set(content['images'][0]['maps']) == set(methods)

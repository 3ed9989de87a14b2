"""`--mode=predict` and `--mode=explain` on images of one's own."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import main
from attn_flax import UserError, explain, inference, runs
from attn_flax.checkpoint import Checkpoints
from attn_flax.data.decode import central_crop
from attn_flax.explain_run import METHODS, explain_run
from attn_flax.session import open_session
from configs import cbam

pytestmark = pytest.mark.usefixtures('small_dataset', 'quick_compilation')


@pytest.fixture(scope='module')
def workdir(small_dataset, quick_compilation, tmp_path_factory):
  """The folder of a run with random weights, as if it had been imported."""
  folder = tmp_path_factory.mktemp('runs') / 'cbam'
  session = open_session(cbam.get_config('smoke'))
  runs.open_run(folder, session.config)
  runs.write_json(folder / 'dataset.json', session.describe_data())
  checkpoints = Checkpoints(folder)
  state = session.fresh_state(jax.random.key(0))
  checkpoints.save(1, state, {'train_seconds': 0.0, 'compile_seconds': 0.0}, None)
  checkpoints.close()
  return folder


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """A folder with images of several sizes, one in a folder below, and two that are broken."""
  folder = tmp_path_factory.mktemp('photos')
  (folder / 'below').mkdir()
  rng = np.random.default_rng(0)
  for name, shape in (('b10.png', (40, 50, 3)), ('b9.png', (32, 32, 3)), ('below/c.png', (64, 33))):
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
  (folder / 'empty.jpg').write_bytes(b'')
  (folder / 'text.jpg').write_text('no image')
  return folder


def run(*arguments):
  return main.run(['main.py', *map(str, arguments)])


def expected_probabilities(workdir, path):
  """What the network says, without the code under test: the checkpoint applied by hand."""
  session = open_session(runs.load_config(workdir), trains=False)
  checkpoints = Checkpoints(workdir, read_only=True)
  state, _ = checkpoints.restore(1, session.abstract_state())
  checkpoints.close()
  spec = session.dataset.spec
  pixels = central_crop(path.read_bytes(), 32, resize=32) / 255
  image = (pixels - np.array(spec.mean)) / np.array(spec.std)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  logits = session.model.apply(variables, image[None].astype(np.float32), train=False)
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


def test_a_folder_is_read_in_natural_order_and_what_is_broken_is_named(workdir, photos, capsys):
  assert run('--mode=predict', f'--workdir={workdir}', f'--images={photos}') == 0
  printed = capsys.readouterr()
  shown = [line for line in printed.out.splitlines() if line.startswith('/')]
  assert shown == [f'{photos}/{name}' for name in ('b9.png', 'b10.png', 'below/c.png')]
  assert len(printed.err.splitlines()) == 2
  assert 'empty.jpg' in printed.err and 'text.jpg' in printed.err


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--mode=predict'], '--images'),
    (['--mode=explain'], '--images'),
    (['--mode=predict', '--images=/no/such/file.png'], 'does not exist'),
    (['--mode=explain', '--images={photos}/text.jpg'], 'none of'),
    (['--mode=predict', '--images={photos}/text.jpg'], 'none of'),
    (
      ['--mode=explain', '--images={photos}/b9.png', '--methods=gradcam'],
      "did you mean 'grad_cam'",
    ),
    (['--mode=explain', '--images={photos}/b9.png', '--methods=attention_rollout'], 'transformer'),
    (['--mode=explain', '--images={photos}/b9.png', '--stage=9'], 'stage'),
  ],
)
def test_mistakes_are_one_line(workdir, photos, capsys, arguments, message):
  arguments = [argument.format(photos=photos) for argument in arguments]
  assert run(f'--workdir={workdir}', *arguments) == 2
  lines = [line for line in capsys.readouterr().err.splitlines() if 'left out' not in line]
  assert len(lines) == 1 and lines[0].startswith('error: ')
  assert message in lines[0]


def test_a_folder_without_a_run_is_refused(tmp_path, photos):
  with pytest.raises(UserError, match='config.json does not exist'):
    inference.open_trained(tmp_path)


def test_images_are_explained_with_overlays_and_scores(workdir, photos, capsys):
  arguments = ['--mode=explain', f'--workdir={workdir}', f'--images={photos}/b9.png,{photos}/below']
  assert run(*arguments) == 0
  content = json.loads((workdir / 'explanations.json').read_text())
  assert [row['image'] for row in content['images']] == [
    f'{photos}/b9.png',
    f'{photos}/below/c.png',
  ]
  trained = inference.open_trained(workdir)
  for row in content['images']:
    with Image.open(row['picture']) as picture:
      assert picture.width > 2 * picture.height  # The image and two maps side by side.
    assert len(row['predictions']) == 5
    assert set(row['maps']) == {'grad_cam', 'own_map'}
    for scores in row['maps'].values():
      assert 0 <= scores['insertion'] <= 1 and 0 <= scores['deletion'] <= 1
      assert -1 <= scores['road'] <= 1
  first = content['images'][0]
  x = trained.augmentation.evaluate(trained.read(photos / 'b9.png')[None])
  label = trained.class_names.index(next(iter(first['predictions'])))
  cam = explain.grad_cam(trained.model, trained.variables, x, np.array([label]))
  assert first['maps']['grad_cam']['largest'] == pytest.approx(float(cam.max()), rel=1e-3, abs=1e-6)


def test_every_method_has_a_name():
  """All maps that the library makes can be asked for on the command line."""
  library = set(explain.__all__) & {name for name in dir(explain) if 'cam' in name}
  others = {'integrated_gradients', 'smooth_grad', 'occlusion', 'own_map', 'attention_rollout'}
  assert set(METHODS) == library | others


@pytest.mark.slow
def test_other_methods_explain_too(workdir, photos):
  methods = [name for name in METHODS if name != 'attention_rollout']
  content = explain_run(workdir, [str(photos / 'b9.png')], methods)
  assert set(content['images'][0]['maps']) == set(methods)

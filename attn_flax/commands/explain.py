"""Explains a trained run on a user's images, by `--mode=explain`: overlays and scores."""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl import flags

from attn_flax import explain
from attn_flax.commands.album import Album
from attn_flax.commands.images import find_images, read_batches
from attn_flax.commands.predict import predict
from attn_flax.commands.workdir import output_folder, workdir
from attn_flax.errors import UserError, check_choice
from attn_flax.explain.perturbation import faithfulness
from attn_flax.report.figures.pictures import is_blank
from attn_flax.training import artifacts
from attn_flax.training.artifacts import File, Folder
from attn_flax.training.trained_run import TrainedRun, batch_size, open_trained

# (model, variables, images, labels) -> maps [N, h, w], or None if there are none.
Method = Callable[..., jax.Array | None]
# Methods by name that also take `stage`.
_STAGED: dict[str, Method] = {
  'grad_cam': explain.grad_cam,
  'grad_cam_plus_plus': explain.grad_cam_plus_plus,
  'hires_cam': explain.hires_cam,
  'layer_cam': explain.layer_cam,
}
# All methods by name.
METHODS: dict[str, Method] = {
  **_STAGED,
  'integrated_gradients': explain.integrated_gradients,
  # The key is made at the call, because making one initializes the device.
  'smooth_grad': lambda *network: explain.smooth_grad(*network, key=jax.random.key(0)),
  'occlusion': explain.occlusion,
  'own_map': lambda model, variables, images, _: explain.own_map(model, variables, images),
  'attention_rollout': lambda model, variables, images, _: explain.attention_rollout(
    model, variables, images
  ),
}


def run(values: flags.FlagValues) -> None:
  """Explains the images, and prints where the maps are."""
  if not values.images:
    raise UserError('--mode=explain needs --images=<files and folders>')
  folder = workdir(values)
  output = output_folder(values) or folder
  found = explain_run(folder, values.images, values.methods, values.stage, output)
  for name, reason in found['unreadable'].items():
    print(f'{name} cannot be read and is left out: {reason}', file=sys.stderr)
  count = len(found['images'])
  images = '1 image' if count == 1 else f'{count} images'
  print(
    f'{images} explained in {output}/{Folder.EXPLANATIONS}, with scores in '
    f'{output}/{File.EXPLANATIONS}'
  )
  for line in found['notes']:
    print(line)


def explain_run(
  folder: pathlib.Path,
  images: Sequence[str],
  methods: Sequence[str],
  stage: int | None = None,
  output: pathlib.Path | None = None,
) -> artifacts.Json:
  """Writes `explanations/<number>_<image>.png`, `explanations.json` and a page of all images.

  The class that is explained is the one that the network predicts. Images are processed a few
  at a time, so that a folder of any size may be given. Pictures that an earlier `explanations.json`
  names are removed, unless they are written again.

  The JSON holds for each map: `empty`, whether it is shown as 'empty' because it is zero everywhere
  or not finite (a signed map without a positive value is not empty); its `smallest` and `largest`
  value; and its scores. A value that is not finite is null. For each image it holds what
  `Album.draw` returns. `contact_sheet` is the page of all images; null for one image.

  Args:
    folder: the run folder.
    images: image files, and folders of them.
    methods: keys of `METHODS`.
    stage: stage of the network whose class activation maps are made, which the other methods do not
      take; None: the last.
    output: the folder of the results; None: the run folder.

  Returns:
    The content of `explanations.json`.

  Raises:
    UserError: the folder holds no run, no method is given, a method is unknown, none has a map of
      the network, no method takes a stage, no image can be read, or a folder cannot be written.
  """
  if not methods:
    raise UserError(f'methods is empty; name some of {", ".join(METHODS)}')
  for method in methods:
    check_choice('methods', method, METHODS)
  if stage is not None and not set(methods) & set(_STAGED):
    raise UserError(
      f'stage={stage} does nothing for {", ".join(methods)}; leave it out, or name one of '
      f'{", ".join(_STAGED)}'
    )
  trained = open_trained(folder)
  paths = find_images(images)
  output = output or folder
  artifacts.check_writable(output, 'name another one with --output')  # Before the work.
  explainer = _Explainer(trained, methods, stage, batch_size(paths))
  album = Album(trained, output / Folder.EXPLANATIONS, paths, images)
  rows: list[artifacts.Json] = []
  broken: dict[str, str] = {}
  for good, pixels, bad in read_batches(trained, paths):
    broken |= bad
    if good:
      rows += explainer.explain(good, pixels, album)
  if not rows:
    name, reason = next(iter(broken.items()))
    raise UserError(f'no image can be read, such as {name}: {reason}; name others in --images')
  sheet = output / File.CONTACT_SHEET if len(rows) > 1 else None
  content = {
    'workdir': str(folder),
    'images': rows,
    'unreadable': broken,
    'contact_sheet': sheet and str(sheet),
    'notes': album.finish(output / File.CONTACT_SHEET),
  }
  stale = _pictures_of_before(output) - {pathlib.Path(row['picture']) for row in rows} - {sheet}
  artifacts.write_json(output / File.EXPLANATIONS, content)
  for picture in stale:
    picture.unlink(missing_ok=True)
  return content


def _pictures_of_before(folder: pathlib.Path) -> set[pathlib.Path]:
  """The pictures in a folder that its earlier result names; none if there is no result."""
  try:
    content = artifacts.read_json(folder / File.EXPLANATIONS)
    names = {pathlib.Path(row['picture']).name for row in content['images']}
    sheet = {folder / File.CONTACT_SHEET} if content.get('contact_sheet') else set()
  except (UserError, KeyError, TypeError):
    return set()
  return sheet | {folder / Folder.EXPLANATIONS / name for name in names if name.endswith('.png')}


class _Explainer:
  """Explains images by a run's network, a batch at a time."""

  def __init__(self, run: TrainedRun, methods: Sequence[str], stage: int | None, batch: int):
    """`batch` is the number of images of a pass; fewer are padded to it, to compile only once."""
    self._run = run
    self._batch = batch
    self._normalize = jax.jit(run.augmentation.evaluate)
    self._methods = {
      method: functools.partial(METHODS[method], stage=stage)
      if method in _STAGED
      else METHODS[method]
      for method in methods
    }

  def _maps(self, method: Method, images: jax.Array, labels: jax.Array) -> jax.Array | None:
    return method(self._run.model, self._run.variables, self._normalize(images), labels)

  def _scores(self, images: jax.Array, labels: jax.Array, maps: jax.Array) -> dict[str, jax.Array]:
    x = self._normalize(images)
    return faithfulness(self._run.model, self._run.variables, x, labels, maps)

  def explain(
    self, paths: Sequence[pathlib.Path], images: np.ndarray, album: Album
  ) -> list[artifacts.Json]:
    """Explains images [n, H, W, 3] uint8, and draws their files; returns a row for each."""
    answers = predict(self._run, images, batch=self._batch)
    labels = np.array([answer[0].label for answer in answers], np.int32)
    in_batches = functools.partial(explain.in_batches, batch_size=self._batch, pad=True)
    maps: dict[str, np.ndarray] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name, method in self._methods.items():
      found = in_batches(functools.partial(self._maps, method), images, labels)
      if found is None:
        continue
      maps[name] = found
      scores[name] = in_batches(self._scores, images, labels, found)
    if not maps:
      verb = 'has' if len(self._methods) == 1 else 'have'
      raise UserError(
        f'{" and ".join(self._methods)} {verb} no map of this network; name another one in '
        '--methods, such as grad_cam'
      )
    rows = []
    for i, path in enumerate(paths):
      own_maps = {method: found[i] for method, found in maps.items()}
      predicted = answers[i][0]
      rows.append(
        {
          'image': str(path),
          **album.draw(path, own_maps, predicted),
          'label': predicted.label,
          'predictions': {answer.name: _number(answer.probability) for answer in answers[i]},
          'maps': {
            method: {
              'empty': is_blank(own_map),
              'smallest': _number(own_map.min()),
              'largest': _number(own_map.max()),
              **{name: _number(values[i]) for name, values in scores[method].items()},
            }
            for method, own_map in own_maps.items()
          },
        }
      )
    return rows


def _number(value: float) -> float | None:
  """A number for JSON, which has no NaN and no infinity: None for these."""
  return float(value) if np.isfinite(value) else None

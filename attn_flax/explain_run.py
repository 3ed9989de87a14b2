"""Explains a trained run on images of one's own, by `--mode=explain`: overlays and scores."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from attn_flax import explain, runs
from attn_flax.errors import UserError, check_choice
from attn_flax.explain.localisation import is_empty
from attn_flax.explain.perturbation import faithfulness
from attn_flax.inference import BATCH, TrainedRun, find_images, open_trained, predict, read_images
from attn_flax.report.overlays import overlays

# Maps by name: (model, variables, images, labels) -> [N, h, w], or None where there is none.
METHODS: dict[str, Callable[..., Any]] = {
  'grad_cam': explain.grad_cam,
  'grad_cam_plus_plus': explain.grad_cam_plus_plus,
  'hires_cam': explain.hires_cam,
  'layer_cam': explain.layer_cam,
  'integrated_gradients': explain.integrated_gradients,
  'smooth_grad': functools.partial(explain.smooth_grad, key=jax.random.key(0)),
  'occlusion': explain.occlusion,
  'own_map': lambda model, variables, images, _: explain.own_map(model, variables, images),
  'attention_rollout': lambda model, variables, images, _: explain.attention_rollout(
    model, variables, images
  ),
}


_STAGED = ('grad_cam', 'grad_cam_plus_plus', 'hires_cam', 'layer_cam')


def explain_run(
  workdir: pathlib.Path, images: Sequence[str], methods: Sequence[str], stage: int | None = None
) -> dict[str, Any]:
  """Writes `explanations/<image>.png` and `explanations.json` into a run folder.

  The class that is explained is the one that the network predicts. Images are worked through a few
  at a time, so that a folder of any size may be given.

  Args:
    workdir: the run folder.
    images: image files, and folders of them.
    methods: keys of `METHODS`.
    stage: of the network, for the methods that explain one; None: the last.

  Returns:
    The content of `explanations.json`.

  Raises:
    UserError: for a folder without a run, unknown methods, or images that cannot be read.
  """
  for method in methods:
    check_choice('methods', method, METHODS)
  run = open_trained(workdir)
  paths = find_images(images)
  explainer = _Explainer(run, methods, stage)
  folder = workdir / 'explanations'
  rows: list[dict[str, Any]] = []
  broken: dict[str, str] = {}
  for start in range(0, len(paths), BATCH):
    good, pixels, bad = read_images(run, paths[start : start + BATCH])
    broken |= bad
    if good:
      rows += explainer.explain(good, pixels, folder, first=len(rows))
  if not rows:
    name, reason = next(iter(broken.items()))
    raise UserError(f'none of {len(broken)} images can be read; {name}: {reason}')
  content = {'workdir': str(workdir), 'images': rows, 'unreadable': broken}
  runs.write_json(workdir / 'explanations.json', content)
  return content


class _Explainer:
  """Explains the images of one run, some at a time."""

  def __init__(self, run: TrainedRun, methods: Sequence[str], stage: int | None):
    self._run = run
    self._normalise = jax.jit(run.augmentation.evaluate)
    self._methods = {
      method: functools.partial(METHODS[method], stage=stage)
      if method in _STAGED
      else METHODS[method]
      for method in methods
    }

  def _maps(self, method, images, labels):
    return method(self._run.model, self._run.variables, self._normalise(images), labels)

  def _scores(self, images, labels, maps):
    return faithfulness(self._run.model, self._run.variables, self._normalise(images), labels, maps)

  def explain(
    self, paths: Sequence[pathlib.Path], images: np.ndarray, folder: pathlib.Path, first: int
  ) -> list[dict[str, Any]]:
    """Explains images [n, H, W, 3] uint8, writes their overlays, returns a row for each."""
    run = self._run
    answers = predict(run, images)
    labels = np.array([run.class_names.index(answer[0][0]) for answer in answers], np.int32)
    maps: dict[str, np.ndarray] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for name, method in self._methods.items():
      own = functools.partial(self._maps, method)
      found = explain.in_batches(own, images, labels, batch_size=BATCH)
      if found is None:
        continue
      maps[name] = found
      scores[name] = explain.in_batches(self._scores, images, labels, found, batch_size=BATCH)
    rows = []
    folder.mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(paths):
      # Files of different folders may share a name.
      picture = folder / f'{first + i + 1:04}_{path.stem}.png'
      own_maps = {method: found[i] for method, found in maps.items()}
      picture.write_bytes(overlays(images[i], own_maps, *answers[i][0]))
      rows.append(
        {
          'image': str(path),
          'picture': str(picture),
          'predictions': dict(answers[i]),
          'maps': {
            method: {
              'empty': bool(is_empty(found[i : i + 1])[0]),
              'largest': float(found[i].max()),
              **{name: float(values[i]) for name, values in scores[method].items()},
            }
            for method, found in maps.items()
          },
        }
      )
    return rows

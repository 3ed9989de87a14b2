"""Channel gates as curves: the factor of each channel, class by class."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Canvas

from attn_flax.report.figures import pictures, style
from attn_flax.report.figures.fonts import lettering
from attn_flax.study.findings import Findings

MOST_STAGES = 4
MOST_CLASSES = 5


def by_stage(paths: list[str]) -> dict[str, str]:
  """The path of the last gate in each stage, {stage: path}; `stage3_block2/...` is in stage3."""
  return {path.split('/')[0].split('_')[0]: path for path in paths}


def _of_known(
  gates: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
  """The classes with an image, and their gates by path; None where no class has all gates."""
  finite = [np.isfinite(gate).all(1) for gate in gates.values()]
  known = np.flatnonzero(np.all(finite, axis=0)) if finite else np.arange(0)
  return (known, {path: gate[known] for path, gate in gates.items()}) if len(known) else None


def plots(findings: Findings) -> list[style.Illustration]:
  """A figure for each variant with channel gates, all with the same range of values."""
  gated = [
    (i, v.name, found)
    for i, v in enumerate(findings.variants)
    if v.pictured is not None and (found := _of_known(v.pictured.gates.channel))
  ]
  ends = [(gate.min(), gate.max()) for *_, (_, gates) in gated for gate in gates.values()]
  low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0, 1)
  names = lettering(findings.class_names).named(findings.class_names)
  room = 0.04 * (high - low) or 0.5
  made = []
  for index, name, (known, gates) in gated:
    stages = by_stage(list(gates))
    chosen = pictures.spread_out(list(stages), MOST_STAGES)
    canvas = Canvas(figsize=(2.5 * len(chosen) + 0.7, 2.9), layout='constrained')
    axes = canvas.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    last = gates[stages[chosen[-1]]]
    distance = np.linalg.norm(last - last.mean(0), axis=1)
    classes = sorted(np.argsort(-distance, kind='stable')[:MOST_CLASSES])
    for ax, stage in zip(axes, chosen, strict=True):
      values = gates[stages[stage]]
      order = np.argsort(values.mean(0), kind='stable')
      values, channels = values[:, order], np.arange(len(order))
      ax.grid(True)
      ax.fill_between(
        channels, values.min(0), values.max(0), color='#cccccc', lw=0, label='all classes'
      )
      for i, k in enumerate(classes):
        look, label = style.line_style(i + 1), style.plain(names[known[k]], 16)
        ax.plot(
          channels, values[k], lw=1, label=label, color=look['color'], linestyle=look['linestyle']
        )
      ax.plot(channels, values.mean(0), color=style.BLACK, lw=1.6, label='mean')
      ax.set_title(style.plain(stages[stage].split('/')[0], 24))
      ax.set_xlabel('channel, by mean gate')
      ax.set_ylim(low - room, high + room)
    axes[0].set_ylabel('gate')
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(
      handles,
      labels,
      loc='outside lower center',
      ncols=style.legend_columns(labels, canvas.get_figwidth()),
    )
    made.append(
      style.finish(
        canvas,
        style.file_name('channels', index, name),
        f'{name}: channel gates',
        'Mean gate of each channel over the test images of a class, in the last block of each'
        ' stage; channels are sorted by their mean gate. Lines are the mean over the classes and'
        ' the classes farthest from it in the last stage; the band spans all classes. A wide band'
        ' means that the gate depends on the class. All variants share one scale.',
        f'Channel gates of {name} by class, in {len(chosen)} stages.',
      )
    )
  return made

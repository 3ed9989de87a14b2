"""One image under each of its maps, as `--mode=explain` writes it."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Canvas

from attn_flax.report.figures import style
from attn_flax.report.figures.pictures import bare, overlay, scale


def overlays(
  image: np.ndarray, maps: Mapping[str, np.ndarray], predicted: str, confidence: float
) -> bytes:
  """An image beside itself under maps, each with a colour bar of its own unit.

  Args:
    image: [H, W, 3] uint8.
    maps: [h, w] each, by the name of its method, not normalised; one that is zero everywhere, or
      not finite, is shown as 'empty'.
    predicted: the class that is explained.
    confidence: its probability.

  Returns:
    The content of a PNG file.
  """
  with style.drawing():
    canvas = Canvas(figsize=(2.6 * (len(maps) + 1), 2.7), layout='constrained')
    axes = canvas.subplots(1, len(maps) + 1, squeeze=False)[0]
    bare(axes[0], image, coloured=True)
    axes[0].set_xlabel(f'{style.plain(predicted)} · {confidence:.2f}')
    for ax, (method, values) in zip(axes[1:], maps.items(), strict=True):
      bare(ax, image)
      # Signed attributions keep their sign: 0 has the same colour only where all are positive.
      drawn = overlay(ax, values, image.shape[:2], scale([values], from_zero=True))
      ax.set_title(method.replace('_', ' '))
      canvas.colorbar(drawn, ax=ax, pad=0.02, shrink=0.8, format='%.2g')
    return style.finish(canvas, 'overlays', '', '', '', maps=True).png

"""Opens encoded images: the formats that are read, and the limit of pixels.

Uses Pillow only, like `decode`, which decodes them.
"""

import importlib
import io
import struct
from collections.abc import Callable
from typing import TypeVar

from PIL import Image

from attn_flax.errors import UserError

# The decoders of Pillow that are used: some others run programs (PostScript) or read more files.
_PLUGINS = ('Bmp', 'Gif', 'Jpeg', 'Png', 'Ppm', 'Tiff', 'WebP')
FORMATS = tuple(name.upper() for name in _PLUGINS)
for _name in _PLUGINS:
  importlib.import_module(f'PIL.{_name}ImagePlugin')
MAX_PIXELS = 178_956_970  # The usual limit of one image, which is that of Pillow.
MOST_PIXELS = 2 * 10**9  # The highest limit; Pillow takes 4 bytes of memory for a pixel.

_Result = TypeVar('_Result')


class BadImage(UserError):  # noqa: N818
  """An image that cannot be decoded; the text gives the reason, without the image's name."""


class TooLarge(BadImage):
  """An image of more pixels than are allowed, which was not decoded.

  Attributes:
    size: its (height, width) in pixels.
  """

  def __init__(self, height: int, width: int, max_pixels: int):
    """`max_pixels` is the number that is allowed."""
    super().__init__(height, width, max_pixels)
    self.size = height, width

  def __str__(self) -> str:
    height, width, max_pixels = self.args
    return f'it has {width} x {height} pixels, more than data.max_pixels={max_pixels} allows'


def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
  """Reads the header of an image; its pixels are decoded only when they are asked for.

  `Image.open` has one limit of pixels for the whole process, which other code may rely on.

  Raises:
    TooLarge: the header says that there are more than `max_pixels` pixels.
    UnidentifiedImageError: no format fits.
  """
  for name in FORMATS:
    factory, accept = Image.OPEN[name]
    accepted = accept is None or accept(encoded[:16])
    if not accepted or isinstance(accepted, str):  # A text says why not.
      continue
    try:
      image = factory(io.BytesIO(encoded), '')
    except (SyntaxError, IndexError, TypeError, struct.error):  # It is of another format.
      continue
    if image.width * image.height > max_pixels:
      raise TooLarge(image.height, image.width, max_pixels)
    return image
  raise Image.UnidentifiedImageError


def guarded(encoded: bytes, decode: Callable[[], _Result]) -> _Result:
  """Calls `decode`.

  Args:
    encoded: the image file's content, which `decode` decodes.
    decode: what is called.

  Raises:
    BadImage: in place of any error of `decode` but `MemoryError`.
  """
  if not encoded:
    raise BadImage('it is empty')
  try:
    return decode()
  except (BadImage, MemoryError):
    raise
  except Image.UnidentifiedImageError:
    raise BadImage(f'it is not an image of a known format ({", ".join(FORMATS)})') from None
  except Image.DecompressionBombError:  # In decoders: of WebP, and of TIFF with large tiles.
    raise BadImage(
      f'Pillow reads at most {MAX_PIXELS} pixels of such a file; make it smaller, or convert it to '
      'PNG or JPEG'
    ) from None
  except Exception as error:  # Pillow's decoders raise errors of many types.
    raise BadImage(' '.join(f'{error}'.split()) or type(error).__name__) from error

"""Encoded images to uint8 arrays, with OpenCV if it is installed (2.5 times faster) or Pillow."""

import functools
import io
import math

import numpy as np

# Random boxes as in Szegedy et al. and in torchvision's RandomResizedCrop.
AREA_RANGE = (0.08, 1.0)  # of the image's area
ASPECT_RANGE = (3 / 4, 4 / 3)  # width / height


class BrokenImage(ValueError):
  """Bytes that neither OpenCV nor Pillow can decode."""


@functools.cache
def _cv2():
  """OpenCV, or None where only Pillow is installed."""
  try:
    import cv2
  except ImportError:
    return None
  cv2.setNumThreads(0)  # our own pool works on whole images; threads inside an image get in its way
  return cv2


def decode(encoded):
  """JPEG, PNG, ... bytes -> uint8 [Y X 3], RGB. Orientation tags are ignored, as in torchvision.

  Raises:
    BrokenImage: the bytes are not an image.
  """
  cv2 = _cv2()
  # OpenCV fills what a truncated file lacks with grey and goes on; Pillow refuses it.
  if cv2 is None or not _has_end(encoded):
    return _decode_pillow(encoded)
  flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
  image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
  return _decode_pillow(encoded) if image is None else image  # formats that OpenCV lacks


def _has_end(encoded):
  """False for a JPEG or PNG without its end marker, and for no bytes at all."""
  if encoded.startswith(b"\xff\xd8"):
    return encoded.endswith(b"\xff\xd9")
  if encoded.startswith(b"\x89PNG"):
    return encoded.endswith(b"IEND\xaeB`\x82")
  return bool(encoded)


def _decode_pillow(encoded):
  from PIL import Image

  try:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
  except (OSError, SyntaxError) as error:  # Pillow's PNG reader raises SyntaxError
    raise BrokenImage(f"{error} ({len(encoded):,} bytes)") from error


def center_box(shape, fraction):
  """(top, left, height, width) of the centre square: `fraction` of the shorter side of [Y X .]."""
  rows, columns = shape[:2]
  side = max(1, round(min(rows, columns) * fraction))
  return (rows - side) // 2, (columns - side) // 2, side, side


def random_box(shape, draws, area_range=AREA_RANGE):
  """(top, left, height, width) of a random box in an image of `shape` [Y X ...].

  draws: 4 numbers in [0, 1): area, aspect, top, left. area_range: least and largest share of the image's area. A box
  that does not fit is cut down to the image (torchvision draws again, which would need an unknown number of random
  numbers).
  """
  rows, columns = shape[:2]
  least, largest = area_range
  area = rows * columns * (least + draws[0] * (largest - least))
  low, high = (math.log(ratio) for ratio in ASPECT_RANGE)
  aspect = math.exp(low + draws[1] * (high - low))
  height = min(rows, max(1, round(math.sqrt(area / aspect))))
  width = min(columns, max(1, round(math.sqrt(area * aspect))))
  return int(draws[2] * (rows - height + 1)), int(draws[3] * (columns - width + 1)), height, width


def resize(image, box, size):
  """The box (top, left, height, width) of uint8 [Y X 3], resized to [size size 3].

  OpenCV averages areas when shrinking and is bilinear when enlarging; Pillow is bilinear with
  antialiasing in both directions. The two differ by a few grey levels.
  """
  top, left, height, width = box
  image = image[top : top + height, left : left + width]
  if (height, width) == (size, size):
    return image
  cv2 = _cv2()
  if cv2 is None:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
  method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
  return cv2.resize(image, (size, size), interpolation=method)

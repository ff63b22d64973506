"""Encoded images to uint8 arrays, with OpenCV if it is installed (2.5 times faster) or Pillow."""

import functools
import io
import math

import numpy as np

from convnn_jax.errors import UserError

# Random boxes as in Szegedy et al. and in torchvision's RandomResizedCrop.
AREA_RANGE = (0.08, 1.0)  # of the image's area
ASPECT_RANGE = (3 / 4, 4 / 3)  # width / height


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
  """JPEG, PNG, ... bytes -> uint8 [Y X 3], RGB. Orientation tags are ignored, as in torchvision."""
  cv2 = _cv2()
  if cv2 is None:
    return _decode_pillow(encoded)
  flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
  image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
  if image is None:
    return _decode_pillow(encoded)  # formats that OpenCV lacks, such as GIF
  return image


def _decode_pillow(encoded):
  from PIL import Image

  try:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
  except (OSError, SyntaxError) as error:  # Pillow's PNG reader raises SyntaxError
    raise UserError(
      f"An image of {len(encoded)} bytes cannot be decoded ({error}). Images must be whole JPEG, "
      "PNG or other files that OpenCV or Pillow read; replace or remove this one."
    ) from error


def center_box(shape, fraction):
  """(top, left, height, width) of the centre square: `fraction` of the shorter side of [Y X .]."""
  rows, columns = shape[:2]
  side = max(1, round(min(rows, columns) * fraction))
  return (rows - side) // 2, (columns - side) // 2, side, side


def random_box(shape, draws):
  """(top, left, height, width) of a random box in an image of `shape` [Y X ...].

  draws: 4 numbers in [0, 1): area, aspect, top, left. A box that does not fit is cut down to the
  image (torchvision draws again, which would need an unknown number of random numbers).
  """
  rows, columns = shape[:2]
  area = rows * columns * (AREA_RANGE[0] + draws[0] * (AREA_RANGE[1] - AREA_RANGE[0]))
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

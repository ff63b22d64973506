"""Random boxes: resized crops and random erasing.

Sources: Szegedy et al., "Going Deeper with Convolutions" (crops); Zhong et al., "Random Erasing Data
Augmentation". Both draw area and aspect until the box fits, here at most ATTEMPTS times, all drawn at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

ATTEMPTS = 10
CROP_ASPECT = (3 / 4, 4 / 3)  # width / height
ERASE_AREA = (0.02, 1 / 3)  # of the image's area
ERASE_ASPECT = (0.3, 1 / 0.3)


class Boxes(NamedTuple):
  """Rows and columns of one box per image; each int32 [b]."""

  top: jax.Array
  left: jax.Array
  height: jax.Array
  width: jax.Array


def random_boxes(key, b, shape, area, aspect, *, whole):
  """One box per image, uniform in area, log-uniform in aspect, uniform in place.

  Args:
    key: jax.random key.
    b: number of images.
    shape: (y, x) of the images, pixels.
    area: (least, largest) share of the image's area.
    aspect: (least, largest) width / height.
    whole: what a row gets for which no attempt fits: True the whole image, which may then be drawn as well; False
      an empty box, and a box must be smaller than the image in both directions.

  Returns:
    Boxes.
  """
  rows, columns = shape
  keys = jax.random.split(key, 4)
  share = jax.random.uniform(keys[0], (b, ATTEMPTS), minval=area[0], maxval=area[1])
  low, high = (jnp.log(ratio) for ratio in aspect)
  ratio = jnp.exp(jax.random.uniform(keys[1], (b, ATTEMPTS), minval=low, maxval=high))
  height = jnp.round(jnp.sqrt(rows * columns * share / ratio)).astype(jnp.int32)
  width = jnp.round(jnp.sqrt(rows * columns * share * ratio)).astype(jnp.int32)
  slack = 0 if whole else 1
  fits = (height <= rows - slack) & (width <= columns - slack)
  first = jnp.argmax(fits, axis=1)[:, None]
  take = lambda sizes, other: jnp.where(
    jnp.any(fits, axis=1), jnp.take_along_axis(sizes, first, axis=1)[:, 0], other
  )
  height, width = take(height, rows if whole else 0), take(width, columns if whole else 0)
  top = jax.random.randint(keys[2], (b,), 0, rows - height + 1)
  left = jax.random.randint(keys[3], (b,), 0, columns - width + 1)
  return Boxes(top, left, height, width)


def inside(boxes, shape):
  """bool [b y x]: True for the pixels of each image's box."""

  def within(start, length, size):
    place = jnp.arange(size)[None] - start[:, None]
    return (place >= 0) & (place < length[:, None])

  y, x = shape
  rows, columns = within(boxes.top, boxes.height, y), within(boxes.left, boxes.width, x)
  return rows[:, :, None] & columns[:, None, :]


# name -> (key, [b y x c]) -> what stands in the erased box of a normalised image
FILLS = {
  "noise": lambda key, x: jax.random.normal(key, x.shape, x.dtype),  # per pixel
  "color": lambda key, x: jax.random.normal(key, (x.shape[0], 1, 1, x.shape[-1]), x.dtype),  # per image
  "zero": lambda key, x: jnp.zeros((1, 1, 1, 1), x.dtype),  # the data set's mean
}


def erase(images, key, probability, fill):
  """Random erasing of normalised images float [b y x c]: one box in each with `probability`, filled as FILLS says."""
  b, *shape, _ = images.shape
  apply_key, box_key, fill_key = jax.random.split(key, 3)
  boxes = random_boxes(box_key, b, shape, ERASE_AREA, ERASE_ASPECT, whole=False)
  erased = inside(boxes, shape) & (jax.random.uniform(apply_key, (b, 1, 1)) < probability)
  return jnp.where(erased[..., None], FILLS[fill](fill_key, images), images)


def resized_crop(images, boxes, size, cubic):
  """Each image's box, resized with antialiasing: uint8 [b Y X c] -> uint8 [b size size c].

  Args:
    images: uint8 [b Y X c].
    boxes: Boxes.
    size: rows and columns of the result.
    cubic: bool [b], bicubic (coefficient -0.5) instead of bilinear interpolation.

  Columns first, with whole numbers between the two passes, as in Pillow, whose weights have fewer digits: the two
  differ by at most one grey level.
  """
  rows = _weights(boxes.top, boxes.height, images.shape[1], size, cubic)
  columns = _weights(boxes.left, boxes.width, images.shape[2], size, cubic)
  exact = jax.lax.Precision.HIGHEST  # whole numbers to 255 do not survive the short products of some devices
  whole = lambda pixels: jnp.clip(jnp.floor(pixels + 0.5), 0, 255)
  pixels = jnp.einsum("bjx,byxc->byjc", columns, images.astype(jnp.float32), precision=exact)
  pixels = jnp.einsum("biy,byjc->bijc", rows, whole(pixels), precision=exact)
  return whole(pixels).astype(jnp.uint8)


def _weights(start, length, source, size, cubic):
  """float32 [b size source]: how much each source row counts for each row of the result."""
  start, length, cubic = (v.reshape(-1, 1, 1) for v in (start, length, cubic))
  scale = length / size
  center = start + (jnp.arange(size).reshape(1, -1, 1) + 0.5) * scale
  place = jnp.arange(source).reshape(1, 1, -1)
  distance = jnp.abs(place + 0.5 - center) / jnp.maximum(scale, 1)
  linear = jnp.maximum(1 - distance, 0)
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  weights = jnp.where(cubic, jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0)), linear)
  weights = jnp.where((place >= start) & (place < start + length), weights, 0)
  return weights / jnp.sum(weights, axis=-1, keepdims=True)

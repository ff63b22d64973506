"""The operations of AutoAugment and RandAugment against Pillow."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from convnn_jax.data import pixel_ops
from tests.fast_jit import fast_jit

FILL = (128, 100, 90)
METHODS = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
NAMES = tuple(pixel_ops.OPERATIONS)


def photographs():
  """Smooth, noisy, dark, constant and two-valued images: uint8 [6 12 12 3]."""
  rng = np.random.default_rng(0)
  small = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(2)]
  smooth = [np.asarray(image.resize((12, 12), METHODS[2])) for image in small]
  noise = rng.integers(0, 256, (12, 12, 3))
  flat = np.full((12, 12, 3), (7, 200, 255))
  two = np.where(rng.random((12, 12, 1)) < 0.3, 60, 61) + np.arange(3)
  return np.stack([*smooth, noise, smooth[0] // 3 + 40, flat, two]).astype(np.uint8)


def affine(matrix):
  def transform(image, value, method):
    return image.transform(
      image.size, Image.Transform.AFFINE, matrix(value, image.size[0]), method, fillcolor=FILL
    )

  return transform


def solarize_add(image, value, _):
  pixels = np.asarray(image).astype(int)
  return Image.fromarray(
    np.where(pixels < 128, np.minimum(pixels + int(value), 255), pixels).astype(np.uint8)
  )


PILLOW = {
  "identity": lambda image, value, _: image,
  "autocontrast": lambda image, value, _: ImageOps.autocontrast(image),
  "equalize": lambda image, value, _: ImageOps.equalize(image),
  "invert": lambda image, value, _: ImageOps.invert(image),
  "posterize": lambda image, value, _: ImageOps.posterize(image, int(value)),
  "solarize": lambda image, value, _: ImageOps.solarize(image, value),
  "solarize_add": solarize_add,
  "color": lambda image, value, _: ImageEnhance.Color(image).enhance(value),
  "contrast": lambda image, value, _: ImageEnhance.Contrast(image).enhance(value),
  "brightness": lambda image, value, _: ImageEnhance.Brightness(image).enhance(value),
  "sharpness": lambda image, value, _: ImageEnhance.Sharpness(image).enhance(value),
  "rotate": lambda image, value, method: image.rotate(value, resample=method, fillcolor=FILL),
  "shear_x": affine(lambda value, size: (1, value, 0, 0, 1, 0)),
  "shear_y": affine(lambda value, size: (1, 0, 0, value, 1, 0)),
  "translate_x": affine(lambda value, size: (1, 0, value * size, 0, 1, 0)),
  "translate_y": affine(lambda value, size: (1, 0, 0, 0, 1, value * size)),
}
# Truncated floats: where one lies within rounding of a whole number, Pillow's and ours may differ by a level.
ROUNDED = ("autocontrast", "color", "contrast", "brightness", "sharpness")
FACTORS = (0.1, 0.4, 1.0, 1.3, 1.9)
VALUES = {
  "posterize": (1, 2, 4, 5, 8),
  "solarize": (0, 26, 128, 199.1, 256),
  "solarize_add": (0, 55, 99, 110, 110),
  **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), FACTORS),
  "rotate": (-30, -13.1, 0, 6.7, 26.7),
  **dict.fromkeys(("shear_x", "shear_y"), (-0.3, -0.11, 0, 0.07, 0.27)),
  **dict.fromkeys(("translate_x", "translate_y"), (-0.45, -0.21, 0, 0.13, 0.41)),
}


@functools.cache
def compiled():
  return fast_jit(pixel_ops.apply_op, static_argnums=1)  # one compilation for all cases


def ours(images, name, value, method=0):
  b = len(images)
  op = jnp.full(b, NAMES.index(name))
  return np.asarray(
    compiled()(images, NAMES, op, jnp.full(b, value, jnp.float32), jnp.full(b, method), np.array(FILL))
  )


@pytest.mark.parametrize("name", NAMES)
def test_every_operation_is_pillows(name):
  images = photographs()
  geometric = name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
  for value in VALUES.get(name, (0,)):
    for number, method in enumerate(METHODS if geometric else METHODS[:1]):
      expected = [np.asarray(PILLOW[name](Image.fromarray(image), value, method)) for image in images]
      difference = np.abs(ours(images, name, value, number).astype(int) - np.stack(expected))
      if number or name in ROUNDED:
        assert difference.max() <= 1, (value, method)
        assert (difference > 0).mean() < 0.02, (value, method)
      else:
        np.testing.assert_array_equal(difference, 0, err_msg=f"{name} {value}")


def test_grey_images_are_pillows_too():
  images = photographs()[..., :1]
  for name, value in (
    ("color", 0.3),
    ("contrast", 1.7),
    ("sharpness", 0.2),
    ("equalize", 0),
    ("autocontrast", 0),
  ):
    op, ones = jnp.full(6, NAMES.index(name)), jnp.zeros(6, jnp.int32)
    got = compiled()(images, NAMES, op, jnp.full(6, value, jnp.float32), ones, np.array([128]))
    for image, row in zip(images, np.asarray(got), strict=True):
      expected = np.asarray(PILLOW[name](Image.fromarray(image[..., 0]), value, None))
      difference = np.abs(row[..., 0].astype(int) - expected)
      assert difference.max() <= (1 if name in ROUNDED else 0), name
      assert (difference > 0).sum() <= 2, name


def test_rows_of_a_batch_are_independent():
  images = photographs()
  names = ("equalize", "rotate", "identity", "sharpness", "invert", "shear_x")
  values = (0.0, 20.0, 0.0, 1.9, 0.0, 0.3)
  op = jnp.array([NAMES.index(name) for name in names])
  method = jnp.array([0, 1, 0, 0, 0, 2])
  got = np.asarray(compiled()(images, NAMES, op, jnp.array(values), method, np.array(FILL)))
  for row, (name, value) in enumerate(zip(names, values, strict=True)):
    np.testing.assert_array_equal(got[row], ours(images, name, value, int(method[row]))[row])

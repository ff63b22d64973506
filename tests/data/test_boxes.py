"""Random boxes, erasing and resized crops against their formulas and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convnn_jax.data import boxes
from tests.data.test_pixel_ops import photographs
from tests.fast_jit import fast_jit

resized = fast_jit(boxes.resized_crop, static_argnums=2)


def draw(shape, area, aspect, whole, b=4000):
  run = fast_jit(lambda key: boxes.random_boxes(key, b, shape, area, aspect, whole=whole))
  return jax.device_get(run(jax.random.key(0)))


def test_boxes_lie_inside_and_have_the_area_and_aspect_asked_for():
  y, x = 200, 240
  box = draw((y, x), (0.2, 0.5), (3 / 4, 4 / 3), True)
  assert (box.top >= 0).all()
  assert (box.left >= 0).all()
  assert (box.top + box.height <= y).all()
  assert (box.left + box.width <= x).all()
  share, ratio = box.height * box.width / (y * x), box.width / box.height
  assert (share.min(), share.max()) == pytest.approx((0.2, 0.5), abs=0.005)
  assert (ratio.min(), ratio.max()) == pytest.approx((3 / 4, 4 / 3), abs=0.02)
  assert share.mean() == pytest.approx(0.35, abs=0.01)  # uniform
  assert np.log(ratio).mean() == pytest.approx(0, abs=0.02)  # log-uniform
  assert (box.top / (y - box.height)).mean() == pytest.approx(0.5, abs=0.02)


def test_boxes_that_never_fit():
  wide = draw((100, 10), (0.5, 1.0), (3.0, 4.0), True, b=50)  # at least 38 columns of 10
  np.testing.assert_array_equal(wide, np.tile([[0], [0], [100], [10]], 50))
  none = draw((100, 10), (0.5, 1.0), (3.0, 4.0), False, b=50)
  assert (none.height * none.width == 0).all()


@pytest.mark.parametrize("fill", sorted(boxes.FILLS))
def test_erasing(fill):
  b = 1500
  x = jnp.full((b, 32, 32, 2), 9.0)
  got = np.asarray(fast_jit(lambda key: boxes.erase(x, key, 0.25, fill))(jax.random.key(0)))
  erased = (got != 9.0).all(axis=-1)
  area = erased.sum(axis=(1, 2))
  touched = area > 0
  assert abs(touched.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / b)
  share = area[touched] / 32**2
  assert share.min() >= 0.02 - 0.01
  assert share.max() <= 1 / 3 + 0.02
  for mask in erased[touched][:50]:  # one whole rectangle
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    assert mask.sum() == rows.sum() * columns.sum()
  inside = got[erased]  # [pixels 2]
  mean, deviation = inside.mean(), inside.std()
  per_image = got[touched][0][erased[touched][0]]
  if fill == "zero":
    assert (inside == 0).all()
  else:
    assert (mean, deviation) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    assert (len(np.unique(per_image[:, 0])) == 1) == (fill == "color")


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("size", [7, 24])
def test_resized_crops_are_pillows(size, cubic):
  images = photographs()
  corners = np.array([[0, 1, 5, 0, 3, 2], [0, 2, 0, 7, 1, 4]])
  sizes = np.array([[12, 9, 6, 5, 9, 10], [12, 7, 12, 5, 8, 3]])
  box = boxes.Boxes(*corners, *sizes)
  got = resized(images, box, size, jnp.full(6, cubic))
  method = Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
  for image, ours, top, left, height, width in zip(images, np.asarray(got), *box, strict=True):
    cut = Image.fromarray(image[top : top + height, left : left + width])
    expected = np.asarray(cut.resize((size, size), method)).astype(int)
    assert np.abs(ours - expected).max() <= 1


def test_the_whole_box_at_its_own_size_is_the_image():
  images = photographs()
  whole = boxes.Boxes(*(jnp.full(6, v) for v in (0, 0, 12, 12)))
  for cubic in (False, True):
    np.testing.assert_array_equal(resized(images, whole, 12, jnp.full(6, cubic)), images)

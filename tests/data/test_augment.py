"""Crop, flip, resize and normalise against plain loops and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convnn_jax import data
from convnn_jax.data.augment import crop_and_flip


def random_images(b=6, y=5, x=7, c=3):
  return np.random.default_rng(0).integers(0, 256, (b, y, x, c), dtype=np.uint8)


def test_crop_and_flip_is_the_plain_loop():
  images, padding = random_images(), 2
  b, y, x, c = images.shape
  corner = np.random.default_rng(1).integers(0, 2 * padding + 1, (b, 2))
  corner[0], corner[1] = (0, 0), (2 * padding, 2 * padding)
  mirrored = np.arange(b) % 2 == 0
  expected = np.zeros_like(images)
  for i in range(b):
    for row in range(y):
      for column in range(x):
        source_row = row + corner[i, 0] - padding
        source_column = (x - 1 - column if mirrored[i] else column) + corner[i, 1] - padding
        if 0 <= source_row < y and 0 <= source_column < x:
          expected[i, row, column] = images[i, source_row, source_column]
  got = jax.jit(crop_and_flip, static_argnums=3)(images, corner, mirrored, padding)
  assert got.dtype == jnp.uint8
  np.testing.assert_array_equal(got, expected)


def test_every_offset_and_both_mirrorings_occur_and_nothing_else(section):
  config = section(augment=("crop", "flip"), crop_padding=1)
  info = data.info(config)
  image = np.random.default_rng(2).integers(1, 256, (8, 8, 1), dtype=np.uint8)
  b = 2000
  batch = jnp.broadcast_to(image[None], (b, 8, 8, 1))
  got = np.asarray(data.augment(batch, jax.random.key(0), config, info))
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  windows = np.stack([padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)])
  # All windows of the image and of its mirror image; cutting and mirroring commute.
  legal = np.concatenate([windows, windows[:, :, ::-1]])
  legal = np.asarray(data.normalise(legal, config, info))
  same = (np.abs(got[:, None] - legal[None]) < 1e-5).all(axis=(2, 3, 4))  # [b 18]
  assert (same.sum(axis=1) == 1).all()
  counts = same.sum(axis=0)
  expected, deviation = b / 18, np.sqrt(b / 18 * 17 / 18)
  assert (np.abs(counts - expected) < 5 * deviation).all()


def test_random_numbers_change_with_the_key_only(section):
  config = section(augment=("crop", "flip"))
  info = data.info(config)
  images = random_images(8, 8, 8, 1)
  run = lambda seed: np.asarray(data.augment(images, jax.random.key(seed), config, info))  # noqa: E731
  np.testing.assert_array_equal(run(3), run(3))
  assert (run(3) != run(4)).any()


def test_no_augmentation_is_normalise(section):
  config = section(augment=(), image_size=16)
  info = data.info(config)
  images = random_images(4, 8, 8, 1)
  got = data.augment(images, jax.random.key(0), config, info)
  np.testing.assert_array_equal(got, data.normalise(images, config, info))


@pytest.mark.parametrize("normalization", ["dataset", "imagenet", "half"])
def test_normalise_is_the_published_formula(section, normalization):
  config = section(name="cifar10", image_size=32, normalization=normalization)
  info = data.info(config)
  images = random_images(2, 32, 32, 3)
  mean, std = {
    "dataset": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5,) * 3, (0.5,) * 3),
  }[normalization]
  expected = (images / 255 - np.array(mean)) / np.array(std)
  got = data.normalise(images, config, info)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("size", [12, 20, 64])
def test_enlarging_is_pillows_bilinear(section, size):
  config = section(image_size=size, normalization="half")
  info = data.info(config)
  images = random_images(3, 8, 8, 1)
  got = np.asarray(data.normalise(images, config, info)) * 127.5 + 127.5
  for image, ours in zip(images, got, strict=True):
    float_image = Image.fromarray(image[..., 0].astype(np.float32))
    expected = np.asarray(float_image.resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours[..., 0], expected, atol=1e-3)


def test_no_resize_in_the_program_when_the_size_matches(section):
  config = section(image_size=8)
  program = str(
    jax.make_jaxpr(lambda x: data.normalise(x, config, data.info(config)))(random_images(1, 8, 8, 1))
  )
  assert "dot_general" not in program
  assert "gather" not in program

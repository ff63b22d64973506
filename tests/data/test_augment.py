"""Crop, flip, resize and normalise against plain loops and Pillow."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from convnn_jax import data
from convnn_jax.data.augment import crop_and_flip
from convnn_jax.errors import UserError
from tests.fast_jit import fast_jit


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


ALL = ("autoaugment", "resized_crop", "flip", "randaugment", "mixup", "cutmix", "erasing")


def test_all_words_on_any_number_of_devices_without_moving_images(section):
  """One program of everything: a function of the key, the same spread over devices, and labels that sum to one."""
  config = section(augment=ALL, name="cifar10", image_size=8, interpolation="random")
  info = data.info(config)
  images, labels = random_images(8, 8, 8, 3), np.arange(8)
  run = fast_jit(lambda images, labels, key: data.augment_batch(images, labels, key, config, info))
  mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
  spread = jax.device_put((images, labels), NamedSharding(mesh, PartitionSpec("data")))
  program = run.lower(*spread, jax.random.key(0)).compile()
  moved = re.findall(
    r"\w+\[([\d,]*)\]\S* (?:all-gather|all-reduce|all-to-all|collective-permute)", program.as_text()
  )
  assert all(shape.count(",") < 2 for shape in moved)  # draws [layers b] at most
  results = {}
  for seed in range(3):
    x, targets = results[seed] = run(images, labels, jax.random.key(seed))
    assert x.shape == (8, 8, 8, 3)
    assert np.isfinite(x).all()
    np.testing.assert_allclose(targets.sum(axis=-1), 1, atol=1e-6)
    for ours, theirs in zip((x, targets), program(*spread, jax.random.key(seed)), strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-5)
  np.testing.assert_array_equal(run(images, labels, jax.random.key(2))[0], results[2][0])
  assert not np.array_equal(results[0][0], results[1][0])


def test_words_are_applied_in_their_order(section):
  """Erased before mixing, a box shows the partner; erased after it, nothing."""
  images, labels = np.full((64, 8, 8, 1), 200, np.uint8), np.zeros(64, int)
  numbers = dict(normalization="half", erase_probability=1.0, erase_fill="zero", cutmix_alpha=1.0)
  white = 200 / 127.5 - 1

  def values(*augment):
    config = section(augment=augment, **numbers)
    x, _ = fast_jit(lambda k: data.augment_batch(images, labels, k, config, data.info(config)))(
      jax.random.key(0)
    )
    return np.asarray(x)

  late = values("mixup", "erasing")
  np.testing.assert_allclose(np.unique(late.round(4)), [0, white], atol=1e-3)
  early = values("erasing", "mixup")
  assert len(np.unique(early.round(3))) > 2  # 0 and white, blended


def test_one_label_path(section):
  config = section(augment=("flip",))
  _, targets = data.augment_batch(
    random_images(4, 8, 8, 1), np.arange(4), jax.random.key(0), config, data.info(config)
  )
  np.testing.assert_array_equal(targets, np.eye(10)[:4])


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"augment": ("crop,flip",)}, r"each in quotes of its own.*--config.data.augment=\"\('crop','flip'\)\""),
    ({"augment": ("crop", 3)}, "each in quotes of its own"),
    ({"augment": ("crop", "crop")}, "'crop' more than once"),
    ({"augment": ("rand_augment",)}, "Did you mean 'randaugment'"),
    ({"augment": ("mixup", "flip")}, "must stand after"),
    ({"augment": ("crop", "resized_crop")}, "choose one"),
    ({"augment": ("resized_crop",), "crop_area": (0.5,)}, "two numbers"),
    ({"augment": ("resized_crop",), "crop_area": (0.0, 1.0)}, r"crop_area=\(0.0, 1.0\)"),
    ({"augment": ("resized_crop",), "interpolation": "cubic"}, "Did you mean 'bicubic'"),
    ({"augment": ("autoaugment",), "policy": "cifar"}, "Did you mean 'cifar10'"),
    (
      {"augment": ("randaugment",), "randaugment_magnitude": 11.0},
      r"randaugment_magnitude=11.0 must lie in \[0, 10\]",
    ),
    ({"augment": ("randaugment",), "randaugment_layers": 0}, "randaugment_layers=0"),
    ({"augment": ("erasing",), "erase_probability": 2.0}, "erase_probability=2.0"),
    ({"augment": ("erasing",), "erase_fill": "pixel"}, "Unknown erase_fill 'pixel'"),
    ({"augment": ("mixup",), "mixup_alpha": 0.0}, "remove its word"),
    ({"augment": ("mixup",), "mix_epochs": -1.0}, "mix_epochs=-1.0"),
    ({"center_fraction": 1.5}, "center_fraction=1.5"),
  ],
)
def test_mistaken_words_and_numbers(section, fields, message):
  with pytest.raises(UserError, match=message):
    data.info(section(**fields))

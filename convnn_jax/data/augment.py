"""Pixels on the device: crop, flip, resize, normalise. Pure functions for use inside `jax.jit`."""

import jax
import jax.numpy as jnp


def augment(images, key, config, info):
  """Training images: random crop and flip as `config.augment` says, then `normalise`.

  Every random number is drawn per batch row, so the result does not depend on how the batch is laid
  out over devices.

  Args:
    images: uint8 [b Y X c], as they are stored (`info.source_shape`).
    key: a jax.random key; one per step.
    config: the data section; `augment` holds words out of "crop" and "flip", `crop_padding` is in
      source pixels.
    info: DataInfo of the same section.

  Returns:
    float32 [b y x c] with y = x = `config.image_size`.
  """
  b = images.shape[0]
  crop_key, flip_key = jax.random.split(key)
  # A streamed image was already cropped at random while it was decoded, where all its pixels were.
  padding = config.crop_padding if "crop" in config.augment and info.storage == "memory" else 0
  mirrored = jnp.zeros((b,), bool)
  if "flip" in config.augment:
    mirrored = jax.random.bernoulli(flip_key, shape=(b,))
  if padding or "flip" in config.augment:
    corner = jax.random.randint(crop_key, (b, 2), 0, 2 * padding + 1)
    images = crop_and_flip(images, corner, mirrored, padding)
  return normalise(images, config, info)


def normalise(images, config, info):
  """uint8 [b Y X c] -> float32 [b y x c]: resized to `config.image_size`, (value - mean) / std.

  Resizing is bilinear with half-pixel centres, as in Pillow and PyTorch; it is left out when the
  size already matches. `info.mean` and `info.std` hold one number per channel, on the scale 0 to 1.
  """
  b, rows, columns, c = images.shape
  size = config.image_size
  images = images.astype(jnp.float32)
  if (rows, columns) != (size, size):
    images = jax.image.resize(images, (b, size, size, c), "bilinear")
  # One multiplication and one addition per pixel; 255 is the white of uint8.
  scale = jnp.array([1 / (255 * std) for std in info.std], jnp.float32)
  shift = jnp.array([-m / s for m, s in zip(info.mean, info.std, strict=True)], jnp.float32)
  return images * scale.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)


def crop_and_flip(images, corner, mirrored, padding):
  """Cuts a window of the image's own size out of the zero-padded image, mirrored where asked.

  Args:
    images: [b y x c].
    corner: int [b 2], top row and left column of the window in the padded image, 0 to 2 * padding.
    mirrored: bool [b], True swaps left and right.
    padding: zeros added on each side, in pixels.

  Returns:
    [b y x c] of the same dtype.
  """
  _, y, x, _ = images.shape
  border = (padding, padding)
  padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))
  columns = jnp.arange(x)[None, :]
  columns = jnp.where(mirrored[:, None], x - 1 - columns, columns)
  # Crop and flip are one gather of whole pixels; a slice per image costs 2.5 times as much.
  return jax.vmap(_take_window)(padded, corner[:, :1] + jnp.arange(y)[None, :], corner[:, 1:] + columns)


def _take_window(image, rows, columns):
  """image [Y X c], rows [y], columns [x] -> [y x c]."""
  return image.at[rows[:, None], columns[None, :]].get(mode="promise_in_bounds")

"""Pixels on the device: the words of `data.augment`, and normalisation. Pure functions for use inside `jax.jit`.

Every random number is drawn per row of the global batch (or once per batch), so the result does not depend on how
the batch lies on devices.
"""

import jax
import jax.numpy as jnp

from convnn_jax.data import boxes, mixing, policies
from convnn_jax.errors import UserError, choose, unknown_name

# The numbers fix each word's stream of random numbers, so do not renumber.
_PIXEL_STREAMS = {"crop": 0, "flip": 1, "resized_crop": 2, "autoaugment": 3, "randaugment": 4}
_BATCH_STREAMS = {
  "erasing": 5,
  "mixup": 6,
  "cutmix": 6,
}  # after normalisation; the two ways of mixing share a draw
MIXING = ("mixup", "cutmix")
AUGMENTATIONS = (*_PIXEL_STREAMS, *_BATCH_STREAMS)


def augment(images, key, config, info):
  """Training images: `augment_batch` without labels, hence without mixing."""
  return augment_batch(images, None, key, config, info)[0]


def augment_batch(images, labels, key, config, info, mixing_enabled=True):
  """Training images and targets: the words of `config.augment` in their order.

  Args:
    images: uint8 [b Y X c], as they are stored (`info.source_shape`).
    labels: int [b], or None for no targets and no mixing.
    key: a jax.random key; one per step.
    config: the data section; configs/base.py says what its words and numbers mean.
    info: DataInfo of the same section.
    mixing_enabled: bool scalar, may be traced; False switches mixup and cutmix off.

  Returns:
    (float32 [b y x c] with y = x = `config.image_size`, float32 [b num_classes]: each image's share of the classes).
  """
  words = config.augment
  for word in _steps([word for word in words if word in _PIXEL_STREAMS], info):
    images = _PIXEL_STEPS[word](images, key, config, info)
  images = normalise(images, config, info)
  targets = None if labels is None else jax.nn.one_hot(labels, info.num_classes)
  mixed = labels is None
  for word in words:
    if word == "erasing":
      images = boxes.erase(images, _stream(key, word), config.erase_probability, config.erase_fill)
    elif word in MIXING and not mixed:
      mixed = True
      images, targets = mixing.mix(
        images,
        targets,
        _stream(key, word),
        mixup_alpha=config.mixup_alpha if "mixup" in words else 0.0,
        cutmix_alpha=config.cutmix_alpha if "cutmix" in words else 0.0,
        probability=config.mix_probability,
        switch_probability=config.mix_switch_probability,
        enabled=mixing_enabled,
      )
  return images, targets


def _stream(key, word):
  return jax.random.fold_in(key, (_PIXEL_STREAMS | _BATCH_STREAMS)[word])


def _steps(words, info):
  """The pixel words as steps: crop and flip side by side are one gather; streams were cropped while decoding."""
  if info.storage == "stream":
    words = [word for word in words if word not in ("crop", "resized_crop")]
  steps = []
  for word in words:
    if {word, *steps[-1:]} == {"crop", "flip"}:
      steps[-1] = "crop_flip"
    else:
      steps.append(word)
  return steps


def _crop_flip(crop, flip):
  """A step that crops, flips or does both."""

  def step(images, key, config, info):
    b = images.shape[0]
    crop_key, flip_key = jax.random.split(key)
    padding = config.crop_padding if crop else 0
    mirrored = jax.random.bernoulli(flip_key, shape=(b,)) if flip else jnp.zeros((b,), bool)
    if not (padding or flip):
      return images
    corner = jax.random.randint(crop_key, (b, 2), 0, 2 * padding + 1)
    return crop_and_flip(images, corner, mirrored, padding)

  return step


def _resized_crop(images, key, config, info):
  b, *shape, _ = images.shape
  box_key, method_key = jax.random.split(_stream(key, "resized_crop"))
  found = boxes.random_boxes(box_key, b, shape, config.crop_area, boxes.CROP_ASPECT, whole=True)
  methods = jnp.array([m == policies.BICUBIC for m in policies.INTERPOLATIONS[config.interpolation]])
  cubic = methods[jax.random.randint(method_key, (b,), 0, len(methods))]
  return boxes.resized_crop(images, found, config.image_size, cubic)


def _autoaugment(images, key, config, info):
  plan = policies.autoaugment_plan(_stream(key, "autoaugment"), images.shape[0], config.policy)
  return policies.apply_plan(images, policies.policy_names(config.policy), plan, policies.AUTOAUGMENT_FILL)


def _randaugment(images, key, config, info):
  plan = policies.randaugment_plan(
    _stream(key, "randaugment"),
    images.shape[0],
    layers=config.randaugment_layers,
    magnitude=config.randaugment_magnitude,
    std=config.randaugment_std,
    probability=config.randaugment_probability,
    interpolation=config.interpolation,
  )
  fill = [min(255, round(255 * mean)) for mean in info.mean]  # what normalisation makes about 0
  return policies.apply_plan(images, policies.RANDAUGMENT, plan, fill)


_PIXEL_STEPS = {
  "crop": _crop_flip(True, False),
  "flip": _crop_flip(False, True),
  "crop_flip": _crop_flip(True, True),
  "resized_crop": _resized_crop,
  "autoaugment": _autoaugment,
  "randaugment": _randaugment,
}


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


def check_augment(config):
  """Checks the words of `config.augment` and the numbers that they use.

  Raises:
    UserError: not a tuple of words, an unknown or repeated word, an order that cannot be, a number out of its range.
  """
  words = config.augment
  example = "\"('crop','flip')\""
  if isinstance(words, str):  # its letters would be taken for words
    raise UserError(
      f"augment='{words}' must be a tuple of words, such as ('{words}',); on the command line"
      f" --config.data.augment={example}."
    )
  for word in words:
    if not isinstance(word, str) or not word.isidentifier():  # crop,flip without quotes arrives as one word
      raise UserError(
        f"augment={tuple(words)!r} must be a tuple of words, each in quotes of its own; on the command line write"
        f' --config.data.augment={example}, and --config.data.augment="()" for none.'
      )
    if word not in AUGMENTATIONS:
      raise unknown_name("augmentation", word, AUGMENTATIONS)
    if tuple(words).count(word) > 1:
      raise UserError(f"augment={tuple(words)!r} has '{word}' more than once; each word may stand once.")
  _check_order(words)
  _check_numbers(words, config)


def _check_order(words):
  late = [word for word in words if word in _BATCH_STREAMS]
  if list(words[len(words) - len(late) :]) != late:
    raise UserError(
      f"augment={tuple(words)!r}: {', '.join(_BATCH_STREAMS)} work on normalised images and must stand after"
      f" {', '.join(_PIXEL_STREAMS)}."
    )
  if "crop" in words and "resized_crop" in words:
    raise UserError("augment has both 'crop' and 'resized_crop'; choose one.")


def _check_numbers(words, config):
  def within(field, low, high, rule):
    if not low <= config[field] <= high:
      raise UserError(f"data.{field}={config[field]} must {rule}.")

  if config.crop_padding < 0:
    raise UserError(
      f"crop_padding={config.crop_padding} must be at least 0 pixels; 0 leaves images uncropped."
    )
  if "resized_crop" in words:
    area = tuple(config.crop_area)
    if len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
      raise UserError(f"data.crop_area={area} must be two numbers, least and largest, in (0, 1].")
  if {"resized_crop", "randaugment"} & set(words):
    choose("interpolation", config.interpolation, policies.INTERPOLATIONS)
  if "autoaugment" in words:
    choose("policy of AutoAugment", config.policy, policies.POLICIES)
  if "randaugment" in words:
    within("randaugment_layers", 1, 15, "lie in [1, 15], operations per image")
    within("randaugment_magnitude", 0, 10, "lie in [0, 10]")
    within("randaugment_std", 0, 10, "lie in [0, 10]")
    within("randaugment_probability", 0, 1, "lie in [0, 1]")
  if "erasing" in words:
    within("erase_probability", 0, 1, "lie in [0, 1]")
    choose("erase_fill", config.erase_fill, boxes.FILLS)
  for word in MIXING:
    if word in words and config[f"{word}_alpha"] <= 0:
      raise UserError(
        f"data.{word}_alpha={config[f'{word}_alpha']} must be larger than 0; to leave {word} out, remove its word"
        " from data.augment."
      )
  if set(MIXING) & set(words):
    within("mix_probability", 0, 1, "lie in [0, 1]")
    within("mix_switch_probability", 0, 1, "lie in [0, 1]")
    if config.mix_epochs < 0:
      raise UserError(f"data.mix_epochs={config.mix_epochs} must be at least 0; 0 mixes in all epochs.")

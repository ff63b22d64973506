"""What AutoAugment and RandAugment draw for each image: operations and their arguments, as arrays.

Sources: Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", tables 6, 7 and 9; Cubuk et al.,
"RandAugment: Practical automated data augmentation with a reduced search space". The arguments are those of the
training code of the Compact Transformers (AutoAugment) and of PyTorch Image Models (RandAugment).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.data.pixel_ops import BICUBIC, BILINEAR, NEAREST, apply_op


class Plan(NamedTuple):
  """Draws for a batch of b images and a number of layers l of operations, applied one after another.

  Attributes:
    op: int32 [l b], positions in a tuple of names, of which the first is "identity".
    value: float32 [l b], arguments.
    interpolation: int32 [l b].
  """

  op: jax.Array
  value: jax.Array
  interpolation: jax.Array


def apply_plan(images, names, plan, fill):
  """uint8 [b y x c] -> the same; see `apply_op`."""

  def layer(images, draws):
    return apply_op(images, names, *draws, fill), None

  return jax.lax.scan(layer, images, tuple(plan))[0]  # a scan: the operations are compiled once


# Rows: two operations of (name, tenths of probability, level 0 to 9), as in tables 7 and 9 of the paper.
POLICIES = {
  "cifar10": """
    invert 1 7, contrast 2 6;        rotate 7 2, translate_x 3 9;     sharpness 8 1, sharpness 9 3;
    shear_y 5 8, translate_y 7 9;    autocontrast 5 8, equalize 9 2;  shear_y 2 7, posterize 3 7;
    color 4 3, brightness 6 7;       sharpness 3 9, brightness 7 9;   equalize 6 5, equalize 5 1;
    contrast 6 7, sharpness 6 5;     color 7 7, translate_x 5 8;      equalize 3 7, autocontrast 4 8;
    translate_y 4 3, sharpness 2 6;  brightness 9 6, color 2 8;       solarize 5 2, invert 0 3;
    equalize 2 0, autocontrast 6 0;  equalize 2 8, equalize 6 4;      color 9 9, equalize 6 6;
    autocontrast 8 4, solarize 2 8;  brightness 1 3, color 7 0;       solarize 4 5, autocontrast 9 3;
    translate_y 9 9, translate_y 7 9; autocontrast 9 2, solarize 8 3; equalize 8 8, invert 1 3;
    translate_y 7 9, autocontrast 9 1""",
  "imagenet": """
    posterize 4 8, rotate 6 9;       solarize 6 5, autocontrast 6 5;  equalize 8 8, equalize 6 3;
    posterize 6 7, posterize 6 6;    equalize 4 7, solarize 2 4;      equalize 4 4, rotate 8 8;
    solarize 6 3, equalize 6 7;      posterize 8 5, equalize 10 2;    rotate 2 3, solarize 6 8;
    equalize 6 8, posterize 4 6;     rotate 8 8, color 4 0;           rotate 4 9, equalize 6 2;
    equalize 0 7, equalize 8 8;      invert 6 4, equalize 10 8;       color 6 4, contrast 10 8;
    rotate 8 8, color 10 2;          color 8 8, solarize 8 7;         sharpness 4 7, invert 6 8;
    shear_x 6 5, equalize 10 9;      color 4 0, equalize 6 3;         equalize 4 7, solarize 2 4;
    solarize 6 5, autocontrast 6 5;  invert 6 4, equalize 10 8;       color 6 4, contrast 10 8;
    equalize 8 8, equalize 6 3""",
}
AUTOAUGMENT_FILL = (128,)  # grey

# name -> arguments at levels 0 to 9
_LEVELS = {
  "shear_x": np.linspace(0, 0.3, 10),
  "shear_y": np.linspace(0, 0.3, 10),
  "translate_x": np.linspace(0, 150 / 331, 10),
  "translate_y": np.linspace(0, 150 / 331, 10),
  "rotate": np.linspace(0, 30, 10),
  "color": np.linspace(0, 0.9, 10),
  "contrast": np.linspace(0, 0.9, 10),
  "sharpness": np.linspace(0, 0.9, 10),
  "brightness": np.linspace(0, 0.9, 10),
  "posterize": np.round(np.linspace(8, 4, 10)),
  "solarize": np.linspace(256, 0, 10),
}
_ENHANCING = ("color", "contrast", "brightness", "sharpness")  # 1 plus the argument is the factor
_SIGNED = ("shear_x", "shear_y", "translate_x", "translate_y", *_ENHANCING)  # AutoAugment turns one way only


def parse_policy(text):
  """The rows of a policy: a list of pairs of (name, probability, argument without its sign)."""

  def part(words):
    name, probability, level = words.split()
    argument = _LEVELS[name][int(level)] if name in _LEVELS else 0.0
    return name, int(probability) / 10, float(argument)

  return [tuple(part(words) for words in row.split(",")) for row in text.split(";")]


def policy_names(policy):
  """The operations of a policy, "identity" first."""
  return ("identity", *sorted({name for row in parse_policy(POLICIES[policy]) for name, _, _ in row}))


def autoaugment_plan(key, b, policy):
  """One sub-policy per image, uniformly; each of its two operations with its own probability.

  Shears are bicubic, the other geometric operations take the nearest pixel.

  Args:
    key: jax.random key.
    b: number of images.
    policy: key of POLICIES.

  Returns:
    Plan of 2 layers over `policy_names(policy)`.
  """
  names, rows = policy_names(policy), parse_policy(POLICIES[policy])
  column = lambda of, dtype: jnp.array([[of(part) for part in row] for row in rows], dtype)  # [rows 2]
  row_key, apply_key, sign_key = jax.random.split(key, 3)
  row = jax.random.randint(row_key, (b,), 0, len(rows))
  take = lambda table: jnp.moveaxis(table[row], 0, 1)  # [2 b]
  applied = jax.random.uniform(apply_key, (2, b)) < take(column(lambda part: part[1], jnp.float32))
  op = jnp.where(applied, take(column(lambda part: names.index(part[0]), jnp.int32)), 0)
  sign = jnp.where(jax.random.bernoulli(sign_key, shape=(2, b)), 1.0, -1.0)
  value = take(column(lambda part: part[2], jnp.float32))
  value = jnp.where(_is(op, names, _SIGNED), sign * value, value)
  value = jnp.where(_is(op, names, _ENHANCING), 1 + value, value)
  return Plan(op, value, jnp.where(_is(op, names, ("shear_x", "shear_y")), BICUBIC, NEAREST))


RANDAUGMENT = (
  "identity",
  "autocontrast",
  "equalize",
  "invert",
  "rotate",
  "posterize",
  "solarize",
  "solarize_add",
  *_ENHANCING,
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
)

# name -> argument at magnitude m (0 to 10) with a random sign s; every operation grows stronger with m
_INCREASING = {
  "rotate": lambda m, s: s * 3 * m,
  "posterize": lambda m, s: 4 - jnp.floor(0.4 * m),
  "solarize": lambda m, s: 256 - jnp.floor(25.6 * m),
  "solarize_add": lambda m, s: jnp.floor(11 * m),
  **dict.fromkeys(_ENHANCING, lambda m, s: jnp.maximum(0.1, 1 + s * 0.09 * m)),
  **dict.fromkeys(("shear_x", "shear_y"), lambda m, s: s * 0.03 * m),
  **dict.fromkeys(("translate_x", "translate_y"), lambda m, s: s * 0.045 * m),
}
# Interpolation words: the methods of which each image gets one at random.
INTERPOLATIONS = {"bilinear": (BILINEAR,), "bicubic": (BICUBIC,), "random": (BILINEAR, BICUBIC)}


def randaugment_plan(key, b, *, layers, magnitude, std, probability, interpolation):
  """`layers` operations per image, drawn uniformly with replacement, each applied with `probability`.

  Args:
    key: jax.random key.
    b: number of images.
    layers: operations per image.
    magnitude, std: mean and deviation of the normal distribution of each operation's magnitude, cut to 0 to 10.
    probability: of an operation being applied.
    interpolation: key of INTERPOLATIONS.

  Returns:
    Plan over RANDAUGMENT.
  """
  op_key, apply_key, magnitude_key, sign_key, method_key = jax.random.split(key, 5)
  shape = (layers, b)
  op = jax.random.randint(op_key, shape, 1, len(RANDAUGMENT))
  op = jnp.where(jax.random.uniform(apply_key, shape) < probability, op, 0)
  m = jnp.clip(magnitude + std * jax.random.normal(magnitude_key, shape), 0, 10)
  sign = jnp.where(jax.random.bernoulli(sign_key, shape=shape), 1.0, -1.0)
  value = jnp.zeros(shape)
  for name, argument in _INCREASING.items():
    value = jnp.where(op == RANDAUGMENT.index(name), argument(m, sign), value)
  methods = jnp.array(INTERPOLATIONS[interpolation], jnp.int32)
  return Plan(op, value, methods[jax.random.randint(method_key, shape, 0, len(methods))])


def _is(op, names, members):
  """bool: which entries of `op` name one of `members`."""
  return jnp.isin(op, jnp.array([names.index(name) for name in members if name in names], jnp.int32))

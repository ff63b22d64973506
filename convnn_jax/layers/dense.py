"""Linear layers; `init` is a word of layers/init.py, PyTorch's default unless given."""

import math

import flax.linen as nn
import jax
from jax import lax

from convnn_jax.layers.init import linear_init


def dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform") -> nn.Dense:
  """[... fan_in] -> [... features]."""
  return nn.Dense(
    features,
    use_bias=bias,
    **linear_init(init, fan_in),
    dot_general=product,
    dtype=dtype,
    name=name,
  )


def split_dense(heads: int, depth: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform"):
  """[... fan_in] -> [... heads depth]: a projection into heads."""
  return nn.DenseGeneral(
    (heads, depth),
    use_bias=bias,
    **linear_init(init, fan_in),
    dot_general=product,
    dtype=dtype,
    name=name,
  )


def merge_dense(features: int, fan_in: int, *, bias: bool, name: str, dtype=None, init="uniform"):
  """[... h d] -> [... features]: heads side by side, then a projection; fan_in = h * d."""
  return nn.DenseGeneral(
    features,
    axis=(-2, -1),
    use_bias=bias,
    **linear_init(init, fan_in),
    dot_general=product,
    dtype=dtype,
    name=name,
  )


def product(x, kernel, dimension_numbers, **options):
  """lax.dot_general of the last axes of x with the first ones of a kernel; on CPUs as a product of two matrices.

  There the general form costs a copy of x, of the result, or of a gradient for each product, forward and backward
  (measured on Swin-T: a tenth of the training step). On TPUs it is the flattening that would be a copy.
  """
  (axes, kernel_axes), batch = dimension_numbers
  count = len(axes)
  last_with_first = tuple(axes) == tuple(range(x.ndim - count, x.ndim)) and tuple(kernel_axes) == tuple(
    range(count)
  )
  if jax.default_backend() != "cpu" or any(batch) or not last_with_first or not x.size:
    return lax.dot_general(x, kernel, dimension_numbers, **options)
  leading, features = x.shape[: x.ndim - count], kernel.shape[count:]
  rows = x.reshape(math.prod(leading), -1)
  y = lax.dot_general(rows, kernel.reshape(rows.shape[1], -1), (((1,), (0,)), ((), ())), **options)
  return y.reshape(*leading, *features)

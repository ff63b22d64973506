"""Linear layers; `init` is a word of layers/init.py, PyTorch's default unless given."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
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


def split_dense(
  tokens: Mapping[str, jax.Array],
  heads: int,
  depth: int | Mapping[str, int],
  *,
  bias: bool | Mapping[str, bool],
  dtype=None,
  init="uniform",
) -> dict[str, jax.Array]:
  """[... c] -> [... heads depth] for each name: projections into heads, such as query, key and value.

  Those that read the same array are computed as one product, whose gradient reads it once too; on CPUs only where there
  is a gradient (docs/speed.md).

  Args:
    tokens: name of the projection -> what it reads, of one shape for the same array.
    heads: h.
    depth: d, for all or for each.
    bias: whether there is one, for all or for each.
    dtype: compute dtype.
    init: a word of layers/init.py.
  """
  each = lambda value, name: value[name] if isinstance(value, Mapping) else value
  made = {}
  for name, x in tokens.items():
    shape = (x.shape[-1], heads, each(depth, name))
    made[name] = _SplitDenseParams(shape, each(bias, name), init, name=name)()
  groups: dict[tuple, list[str]] = {}
  for name, x in tokens.items():
    groups.setdefault((id(x), each(depth, name)), []).append(name)
  projected: dict[str, jax.Array] = {}
  for names in groups.values():
    params = [made[name] for name in names]
    projected.update(zip(names, _project(tokens[names[0]], params, dtype), strict=True))
  return projected


class _SplitDenseParams(nn.Module):
  """The parameters of a projection [c] -> [h d]: kernel [c h d], bias [h d] or None."""

  shape: tuple[int, int, int]
  bias: bool
  init: str

  @nn.compact
  def __call__(self):
    c, h, d = self.shape
    inits = linear_init(self.init, c)
    kernel = self.param("kernel", _flat(inits["kernel_init"], 1), self.shape, jnp.float32)
    bias = self.param("bias", _flat(inits["bias_init"], 0), (h, d), jnp.float32) if self.bias else None
    return kernel, bias


def _flat(init, num_inputs):
  """An initialiser that draws for one output axis, which is then split."""

  def split(key, shape, dtype):
    return init(key, (*shape[:num_inputs], math.prod(shape[num_inputs:])), dtype).reshape(shape)

  return split


def _project(x, params, dtype):
  """x [... c] with kernels [c h d] and biases [h d] or None: a list of [... h d]."""
  kernels, biases = zip(*params, strict=True)
  x, *kernels = promote_dtype(x, *kernels, dtype=dtype)
  form = _apart if jax.default_backend() == "cpu" and len(kernels) > 1 else _together
  return form(x, kernels, list(biases))


def _together(x, kernels, biases):
  """As one product; side by side within a head, so that kernels cut over devices by heads stay so."""
  y = product(x, jnp.stack(kernels, axis=-2), (((x.ndim - 1,), (0,)), ((), ())))
  if any(bias is not None for bias in biases):
    columns = [
      jnp.zeros(k.shape[1:], y.dtype) if b is None else b.astype(y.dtype)
      for k, b in zip(kernels, biases, strict=True)
    ]
    y = add_to_each(y, jnp.stack(columns, axis=-2))
  # Indices would have gradients that are padded and added up; those of a split are put side by side.
  return [jnp.squeeze(part, -2) for part in lax.split(y, (1,) * len(kernels), axis=y.ndim - 2)]


@jax.custom_vjp
def _apart(x, kernels, biases):
  """The same where no gradient is wanted: no kernels to put side by side, and results that lie in one piece each."""
  return [_together(x, [k], [b])[0] for k, b in zip(kernels, biases, strict=True)]


def _apart_forward(x, kernels, biases):
  return jax.vjp(_together, x, kernels, biases)


def _apart_backward(backward, gradients):
  return backward(gradients)


_apart.defvjp(_apart_forward, _apart_backward)


def add_to_each(x, values):
  """x [... *shape] + values [*shape]; on CPUs as rows and columns, where the gradient of values is a sum of rows."""
  if values.shape != x.shape[x.ndim - values.ndim :]:
    raise ValueError(f"values of shape {values.shape} are not for each position of x, {x.shape}.")
  if jax.default_backend() != "cpu" or not x.size:
    return x + jnp.broadcast_to(values, x.shape)
  return (x.reshape(-1, values.size) + values.reshape(1, -1)).reshape(x.shape)


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

"""Constants that stay in the loop they are written in."""

import jax
import jax.numpy as jnp
from jax import lax


def inside(x: jax.Array, constant: float | jax.Array) -> jax.Array:
  """`constant` as a value that JAX takes to depend on x: a number in x's dtype, or an array as it is.

  Of a loop that it differentiates, JAX takes out what depends on nothing (jax 0.10.2), as arrays: rows of zeros, or of
  places in a row, which a turn then reads from memory, where else they are part of an instruction. What is made of a
  constant from here stays inside. No number of x has a part in it: compilers fold it away.
  """
  constant = jnp.asarray(constant, None if hasattr(constant, "dtype") else x.dtype)
  if not x.size:
    return constant
  word = lax.stop_gradient(x)[(0,) * x.ndim]
  if not jnp.issubdtype(x.dtype, jnp.integer):
    word = lax.bitcast_convert_type(word, f"uint{8 * x.dtype.itemsize}")
  zero = (word * 0).astype(constant.dtype)
  return constant | zero if constant.dtype == bool else constant + zero

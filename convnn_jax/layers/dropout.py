"""Dropout whose mask is a hash of the element's global index.

Same call as `nn.Dropout`. The mask is one fused elementwise pass: it draws no random bits
by threefry, nothing is stored for the backward pass (the mask is computed again), and it does not
depend on how the array is sharded.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.errors import UserError, is_known
from convnn_jax.layers.random_keys import random_key
from convnn_jax.ops.loop_constants import inside


def _scramble(x):
  """A bijection of 32-bit words in which every bit of the result depends on every bit (MurmurHash3's finaliser)."""
  x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float | jax.Array) -> jax.Array:
  """Boolean mask of `shape`, each element True with probability 1 - rate.

  Two rounds of multiply and xor-shift over the element index mixed with two words made of the key. Keys that differ
  in a single bit differ in both words, else their masks would be related.
  """
  words = jax.random.key_data(key).astype(jnp.uint32).reshape(-1)
  first = _scramble(words[0] ^ _scramble(words[-1] + jnp.uint32(0x9E3779B9)))
  second = _scramble(words[-1] ^ first)
  # From `first` on and back again: an index that depends on the key does not leave a loop over layers as an array.
  index = first
  stride = 1
  for axis in reversed(range(len(shape))):
    places = jnp.arange(shape[axis], dtype=jnp.uint32) * jnp.uint32(stride % 2**32)
    index += jnp.expand_dims(places, [a for a in range(len(shape)) if a != axis])
    stride *= shape[axis]
  x = ((index - first) ^ first) * jnp.uint32(0x9E3779B1)
  x = (x ^ (x >> 15)) * jnp.uint32(0x85EBCA77)
  x = x ^ second
  x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE3D)
  x = x ^ (x >> 16)
  if is_known(rate):
    return x >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))
  return x >= (rate * jnp.float32(2**32)).astype(jnp.uint32)  # exact: 2**32 is a power of two


class Dropout(nn.Module):
  """Sets a share `rate` of the elements to zero and scales the rest by 1 / (1 - rate).

  Attributes:
    rate: probability of zero, in [0, 1).
  """

  rate: float

  @nn.compact
  def __call__(self, x, *, deterministic: bool):
    if not 0 <= self.rate < 1:
      raise UserError(f"dropout_rate={self.rate} must lie in [0, 1).")
    if deterministic or self.rate == 0:
      return x
    mask = keep_mask(random_key(self, "dropout"), x.shape, self.rate)
    return jnp.where(mask, x / (1 - self.rate), inside(x, 0)).astype(x.dtype)

"""The published accident of merging heads by a reshape."""

import jax.numpy as jnp


def scramble_heads(heads):
  """[b h n d] -> [b h n d] with tokens and channels mixed by a fixed pattern.

  The published code lays the result of its convolution out as [b*h n d] and reshapes it to [b h d n], where a
  transposition was meant: position (t, c) reads token (c n + t) // d, channel (c n + t) mod d.
  """
  b, h, n, d = heads.shape
  return jnp.swapaxes(heads.reshape(b, h, d, n), 2, 3)

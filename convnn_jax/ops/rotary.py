"""Rotary position embedding.

Source: Su et al., "RoFormer", section 3.4.2, with half-split pairs (channel i with channel i + d/2).
"""

import jax.numpy as jnp


def rotate(x, positions, base: float = 10000.0):
  """Turns pairs of channels by angles that grow with the position.

  Angles are computed in float32 or wider: in bfloat16 neighbouring positions beyond 256 would be the same.

  Args:
    x: [b n h d], d even.
    positions: [n].
    base: of the frequencies base^(-2i / d).

  Returns:
    [b n h d], in x's dtype.
  """
  half = x.shape[-1] // 2
  wide = jnp.promote_types(x.dtype, jnp.float32)
  # The table of frequencies is float32 in published checkpoints, too.
  frequencies = (base ** (-jnp.arange(half, dtype=jnp.float32) * 2 / x.shape[-1])).astype(wide)
  angles = jnp.asarray(positions, wide)[:, None] * frequencies[None]
  angles = jnp.concatenate([angles, angles], axis=-1)[None, :, None]  # [1 n 1 d]
  turned = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
  return (x * jnp.cos(angles) + turned * jnp.sin(angles)).astype(x.dtype)

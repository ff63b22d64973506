"""Rotary position embedding.

Source: Su et al., "RoFormer", section 3.4.2, with half-split pairs (channel i with channel i + d/2).
"""

import jax.numpy as jnp


def rotate(x, positions, base: float = 10000.0):
  """Turns pairs of channels by angles that grow with the position.

  Args:
    x: [b n h d], d even.
    positions: [n].
    base: of the frequencies base^(-2i / d).

  Returns:
    [b n h d].
  """
  half = x.shape[-1] // 2
  frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) * 2 / x.shape[-1])
  angles = jnp.asarray(positions, jnp.float32)[:, None] * frequencies[None]
  angles = jnp.concatenate([angles, angles], axis=-1).astype(x.dtype)[None, :, None]  # [1 n 1 d]
  turned = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
  return x * jnp.cos(angles) + turned * jnp.sin(angles)

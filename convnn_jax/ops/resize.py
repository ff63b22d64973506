"""Bicubic resizing of tables over positions, as PyTorch does it."""

import jax.numpy as jnp
import numpy as np

# `jax.image.resize` uses -0.5 and smooths when it shrinks.
_CUBIC = -0.75


def bicubic_matrix(old: int, new: int) -> np.ndarray:
  """The resampling of one axis as a matrix: float64 [new old].

  Cubic convolution with coefficient -0.75, pixel centres at half-integers, edge values repeated, no smoothing: the rule
  of torch.nn.functional.interpolate(mode="bicubic", align_corners=False).
  """
  centre = (np.arange(new) + 0.5) * old / new - 0.5
  first = np.floor(centre).astype(int)
  matrix = np.zeros((new, old))
  for tap in range(-1, 3):
    distance = np.abs(centre - first - tap)
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((_CUBIC * distance - 5 * _CUBIC) * distance + 8 * _CUBIC) * distance - 4 * _CUBIC
    np.add.at(
      matrix,
      (np.arange(new), np.clip(first + tap, 0, old - 1)),
      np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)),
    )
  return matrix


def resize_table(table, old: tuple[int, int], new: tuple[int, int]):
  """Resizes a table over a grid: [old rows * old columns, c] -> [new rows * new columns, c]."""
  rows, columns = (bicubic_matrix(*sides).astype(table.dtype) for sides in zip(old, new, strict=True))
  grid = table.reshape(*old, table.shape[-1])
  resized = jnp.einsum("Yy,Xx,yxc->YXc", rows, columns, grid, precision="highest")
  return resized.reshape(new[0] * new[1], -1)

"""Which tokens may become neighbours: all, a random subset, or evenly spaced ones of the sequence or of the grid."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError


def check_num_candidates(num_candidates: int, num_tokens: int, padding: int = 0) -> None:
  """Raises UserError unless 1 <= num_candidates <= num_tokens - 2 * padding."""
  available = num_tokens - 2 * padding
  if padding < 0 or available < 1:
    raise UserError(
      f"candidate_padding={padding} leaves no token of {num_tokens}; choose 0 to {(num_tokens - 1) // 2}."
    )
  if not 1 <= num_candidates <= available:
    raise UserError(
      f"num_candidates={num_candidates} must lie in [1, {available}], the number of tokens"
      f"{' inside the padding' if padding else ''}."
    )


def random_candidates(key: jax.Array, num_tokens: int, num_candidates: int) -> jax.Array:
  """A random subset of the tokens, shared by the whole batch and all heads: int32 [m]."""
  check_num_candidates(num_candidates, num_tokens)
  return jax.random.permutation(key, num_tokens)[:num_candidates].astype(jnp.int32)


def spatial_candidates(num_tokens: int, num_candidates: int, padding: int = 0) -> np.ndarray:
  """Evenly spaced token positions, from `padding` to num_tokens - 1 - padding: int32 [m].

  Exact integer arithmetic: floor(padding + j (num_tokens - 1 - 2 padding) / (m - 1)), j = 0 .. m-1. A stride
  over the token *sequence*, class token included, as published; not a two-dimensional grid.
  """
  check_num_candidates(num_candidates, num_tokens, padding)
  steps = np.arange(num_candidates) * (num_tokens - 1 - 2 * padding)
  return (padding + steps // max(num_candidates - 1, 1)).astype(np.int32)


def spatial_grid_candidates(rows: int, columns: int, num_candidates: int, num_prefix: int = 0) -> np.ndarray:
  """A g x g grid of patches, g^2 = num_candidates, its outer rows and columns those of the image: int32 [g^2].

  Tokens are counted along the sequence, behind `num_prefix` class tokens, which are no candidates. With g = 1 it is
  the patch at the middle.

  Raises:
    UserError: num_candidates is not the square of a number in [1, min(rows, columns)].
  """
  side = math.isqrt(max(num_candidates, 0))
  most = min(rows, columns)
  if side * side != num_candidates or not 1 <= side <= most:
    raise UserError(
      f"num_candidates={num_candidates} must be a square number from 1 to {most**2} for candidates='spatial_grid' on"
      f" {rows} x {columns} patches: 9 for 3x3."
    )
  if side == 1:
    y, x = np.array([rows // 2]), np.array([columns // 2])
  else:
    steps = np.arange(side)
    y, x = steps * (rows - 1) // (side - 1), steps * (columns - 1) // (side - 1)
  return (num_prefix + y[:, None] * columns + x[None]).reshape(-1).astype(np.int32)

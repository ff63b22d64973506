"""Which tokens may become neighbours: all, a random subset, or evenly spaced ones."""

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

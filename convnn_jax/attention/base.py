"""The attention protocol: tokens in, tokens out."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from convnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenGrid:
  """Static layout of the tokens of an image: `num_prefix` class tokens, then rows x columns patches, row by
  row."""

  rows: int
  columns: int
  num_prefix: int = 0

  @property
  def num_tokens(self) -> int:
    """All tokens, prefix included."""
    return self.num_prefix + self.rows * self.columns


class Attention(Protocol):
  """What every file in this package provides, as a linen module with a `dtype` field.

  Every variant sows ("intermediates", "attention_weights") as [b h n m] when that collection is requested.
  Random numbers come from the rng streams "dropout" and "candidates".
  """

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    context: jax.Array | None = None,
    bias: jax.Array | None = None,
    grid: TokenGrid | None = None,
  ) -> jax.Array:
    """Mixes tokens.

    Args:
      x: [b n c].
      train: dropout and random choices are on.
      context: [b m c]; keys and values come from here instead of x (cross-attention).
      bias: added to the scores, broadcast to [b h n m]; a large negative value hides a candidate.
      grid: layout of the tokens, for variants that need positions.

    Returns:
      [b n c].
    """


def head_width(width: int, num_heads: int, head_dim: int = 0) -> int:
  """d = head_dim, or c / h where that is 0; raises UserError unless it is a whole number."""
  if head_dim and (num_heads < 1 or head_dim < 1):
    raise UserError(f"num_heads={num_heads} and head_dim={head_dim} must be at least 1.")
  if head_dim:
    return head_dim
  if num_heads < 1 or width % num_heads:
    divisors = [h for h in range(1, min(width, 64) + 1) if width % h == 0]
    raise UserError(
      f"num_heads={num_heads} must divide the width {width}; possible: {', '.join(map(str, divisors))}."
    )
  return width // num_heads


def wants_weights(module) -> bool:
  """True when the caller asked for sown values, so that a variant makes [b h n m] only then."""
  return module.is_mutable_collection("intermediates")


def sow_padding(module, num_padding: int) -> None:
  """Says that the last columns of the weights that `module` sows, so many, stand for no token."""
  if num_padding:
    module.sow("intermediates", "attention_padding", jnp.asarray(num_padding))

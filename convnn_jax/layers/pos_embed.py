"""Position embeddings: fixed sine and cosine, learned, or none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError, unknown_name

POSITION_EMBEDDINGS = ("sincos", "learned", "none")


def sincos_table(num_positions: int, width: int) -> np.ndarray:
  """Interleaved table of Vaswani et al., section 3.5: float32 [n c].

  table[t, 2i] = sin(t w_i), table[t, 2i + 1] = cos(t w_i), w_i = 10000^(-2i / c).
  """
  frequency = np.exp(-np.log(10000.0) * np.arange(0, width, 2) / width)
  angle = np.arange(num_positions)[:, None] * frequency[None]
  table = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(num_positions, -1)
  return table[:, :width].astype(np.float32)


class PositionEmbedding(nn.Module):
  """Adds a position's vector to every token: x [b n c] -> [b n c].

  Attributes:
    kind: "sincos" (constant, not counted as a parameter), "learned" or "none".
    std: standard deviation of new "learned" positions.
  """

  kind: str = "sincos"
  std: float = 0.02

  @nn.compact
  def __call__(self, x):
    n, c = x.shape[1:]
    if self.kind == "none":
      return x
    if self.kind == "sincos":
      table = jnp.asarray(sincos_table(n, c))
    elif self.kind == "learned":
      table = self.param("table", nn.initializers.normal(self.std), (n, c), jnp.float32)
    else:
      raise unknown_name("position_embedding", self.kind, POSITION_EMBEDDINGS)
    return x + table.astype(x.dtype)[None]


def resize_positions(table, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix: int = 0):
  """A learned table for another image size: [num_prefix + y x, c] -> [num_prefix + y' x', c].

  Bilinear, pixel centres at half-integers, no smoothing when it shrinks, as the published loaders do. Rows of class
  tokens are kept as they are. Fixed tables are not resized but computed anew, by `sincos_table`.

  Args:
    table: rows in the order of the tokens.
    old_grid: (rows, columns) of the tokens that it was learned for.
    new_grid: (rows, columns) wanted.
    num_prefix: class tokens in front.

  Raises:
    UserError: the table does not fit the old grid.
  """
  rows, columns = old_grid
  if table.ndim != 2 or table.shape[0] != num_prefix + rows * columns:
    raise UserError(
      f"A position table of shape {table.shape} does not fit a grid of {rows} x {columns} tokens and {num_prefix} class"
      " tokens."
    )
  c = table.shape[1]
  grid = table[num_prefix:].reshape(rows, columns, c)
  with jax.default_matmul_precision("highest"):
    grid = jax.image.resize(grid, (*new_grid, c), "bilinear", antialias=False)
  return jnp.concatenate([table[:num_prefix], grid.reshape(-1, c)])

"""Position embeddings: fixed sine and cosine, learned, or none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError, unknown_name

POSITION_EMBEDDINGS = ("sincos", "sincos_one_frequency", "learned", "none")


def sincos_table(num_positions: int, width: int) -> np.ndarray:
  """Interleaved table of Vaswani et al., section 3.5: float32 [n c].

  table[t, 2i] = sin(t w_i), table[t, 2i + 1] = cos(t w_i), w_i = 10000^(-2i / c).
  """
  frequency = np.exp(-np.log(10000.0) * np.arange(0, width, 2) / width)
  angle = np.arange(num_positions)[:, None] * frequency[None]
  table = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(num_positions, -1)
  return table[:, :width].astype(np.float32)


def one_frequency_table(num_positions: int, width: int) -> np.ndarray:
  """A published slip of `sincos_table`: float32 [n c], sin(t) in every even column and cos(t) in every odd one.

  Source: fkodom/transformer-from-scratch, where the exponent is an integer division that gives 0 in every column.
  """
  angle = np.arange(num_positions, dtype=np.float32)[:, None]
  return np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle))


TABLES = {"sincos": sincos_table, "sincos_one_frequency": one_frequency_table}


class PositionEmbedding(nn.Module):
  """Adds a position's vector to every token: x [b n c] -> [b n c].

  Attributes:
    kind: "sincos" (constant, not counted as a parameter), "sincos_one_frequency" (a published slip), "learned" or
      "none".
    std: standard deviation of new "learned" positions.
    num_positions: rows of the "learned" table, of which the first n are used; 0 = n.
  """

  kind: str = "sincos"
  std: float = 0.02
  num_positions: int = 0

  @nn.compact
  def __call__(self, x):
    n, c = x.shape[1:]
    if self.num_positions and (self.kind != "learned" or self.num_positions < n):
      raise UserError(
        f"num_positions={self.num_positions} must be 0, or with position_embedding='learned' at least {n}, the number"
        " of tokens."
      )
    if self.kind == "none":
      return x
    if self.kind in TABLES:
      table = jnp.asarray(TABLES[self.kind](n, c))
    elif self.kind == "learned":
      rows = self.num_positions or n
      table = self.param("table", nn.initializers.normal(self.std), (rows, c), jnp.float32)[:n]
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

"""Position embeddings: fixed sine and cosine, learned, or none."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import unknown_name

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
    kind: "sincos" (constant, not counted as a parameter), "learned" (standard deviation 0.02) or "none".
  """

  kind: str = "sincos"

  @nn.compact
  def __call__(self, x):
    n, c = x.shape[1:]
    if self.kind == "none":
      return x
    if self.kind == "sincos":
      table = jnp.asarray(sincos_table(n, c))
    elif self.kind == "learned":
      table = self.param("table", nn.initializers.normal(0.02), (n, c), jnp.float32)
    else:
      raise unknown_name("position_embedding", self.kind, POSITION_EMBEDDINGS)
    return x + table.astype(x.dtype)[None]

"""The transformer block around any attention."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from convnn_jax.attention import make_attention
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm


class EncoderBlock(nn.Module):
  """Pre-norm block: x += drop(attention(norm1(x))); x += drop(mlp(norm2(x))): x [b n c] -> [b n c].

  Attributes:
    attention: spec of any registered attention.
    mlp_dim: hidden width of the MLP.
    dropout_rate: after the attention, inside the MLP and after it.
    norm_epsilon: of both norms.
    activation: of the MLP, a word of layers/mlp.py.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  mlp_dim: int
  dropout_rate: float = 0.0
  norm_epsilon: float = 1e-5
  activation: str = "gelu"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool, bias=None, grid=None):
    drop = lambda y: Dropout(self.dropout_rate)(y, deterministic=not train)
    attention = make_attention(self.attention, dtype=self.dtype, name="attention")
    y = layer_norm("norm1", self.dtype, epsilon=self.norm_epsilon)(x)
    x = x + drop(attention(y, train=train, bias=bias, grid=grid))
    y = layer_norm("norm2", self.dtype, epsilon=self.norm_epsilon)(x)
    mlp = Mlp(self.mlp_dim, self.dropout_rate, self.activation, dtype=self.dtype, name="mlp")
    return x + drop(mlp(y, train=train))

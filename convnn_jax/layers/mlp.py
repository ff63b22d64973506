"""The transformer's feed-forward layer."""

from typing import Any

import flax.linen as nn

from convnn_jax.layers.dense import dense
from convnn_jax.layers.dropout import Dropout


class Mlp(nn.Module):
  """Linear, GELU (exact), dropout, linear: x [... c] -> [... c].

  Attributes:
    hidden: width between the two linear layers.
    dropout_rate: after the activation.
    init: of the linear layers, a word of layers/init.py.
    dtype: compute dtype.
  """

  hidden: int
  dropout_rate: float = 0.0
  init: str = "uniform"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool):
    c = x.shape[-1]
    y = dense(self.hidden, c, bias=True, name="hidden_layer", dtype=self.dtype, init=self.init)(x)
    y = nn.gelu(y, approximate=False)
    y = Dropout(self.dropout_rate)(y, deterministic=not train)
    return dense(c, self.hidden, bias=True, name="out", dtype=self.dtype, init=self.init)(y)

"""The transformer's feed-forward layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.errors import choose
from convnn_jax.layers.dense import dense
from convnn_jax.layers.dropout import Dropout


def gelu(x):
  """x times the normal distribution's integral up to x, exact.

  By erf, in float32: jax.nn.gelu calls erfc, which has two branches and is a third slower on CPUs, gradient included.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


ACTIVATIONS = {"gelu": gelu, "gelu_tanh": lambda x: nn.gelu(x, approximate=True), "relu": nn.relu}


class Mlp(nn.Module):
  """Linear, activation, dropout, linear: x [... c] -> [... c].

  Attributes:
    hidden: width between the two linear layers.
    dropout_rate: after the activation.
    activation: "gelu" (exact), "gelu_tanh" (its approximation by a tanh) or "relu".
    init: of the linear layers, a word of layers/init.py.
    dtype: compute dtype.
  """

  hidden: int
  dropout_rate: float = 0.0
  activation: str = "gelu"
  init: str = "uniform"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool):
    c = x.shape[-1]
    y = dense(self.hidden, c, bias=True, name="hidden_layer", dtype=self.dtype, init=self.init)(x)
    y = choose("activation", self.activation, ACTIVATIONS)(y)
    y = Dropout(self.dropout_rate)(y, deterministic=not train)
    return dense(c, self.hidden, bias=True, name="out", dtype=self.dtype, init=self.init)(y)

"""The convolution over ranked neighbours, with its parameters."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.errors import unknown_name
from convnn_jax.layers.dense import dense
from convnn_jax.layers.init import uniform

CONVOLUTIONS = ("depthwise", "standard", "depthwise_separable")


class NeighborConvolution(nn.Module):
  """The kernel of a convolution over k neighbours of d channels, applied by a function: -> [b h n features].

  Attributes:
    features: output channels.
    kind: "depthwise" (kernel [k d], starts as ones), "standard" (kernel [k d features]) or
      "depthwise_separable" (kernel [k d] with the default initialisation, then a pointwise layer).
    bias: a bias on every convolution, the depthwise stage included.
    dtype: compute dtype.
  """

  features: int
  kind: str = "depthwise"
  bias: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, k: int, d: int, convolve: Callable):
    """`convolve` takes the kernel and gives the sum over ranks [b h n features], or [b h n d] if it is depthwise."""
    if self.kind == "standard":
      kernel = self.param("kernel", uniform(k * d), (k, d, self.features), jnp.float32)
      return self._add_bias(convolve(kernel), k * d)
    if self.kind == "depthwise":
      kernel = self.param("kernel", nn.initializers.ones, (k, d), jnp.float32)
      return self._add_bias(convolve(kernel), k)
    if self.kind == "depthwise_separable":
      kernel = self.param("kernel", uniform(k), (k, d), jnp.float32)
      out = self._add_bias(convolve(kernel), k)
      return dense(self.features, d, bias=self.bias, name="pointwise", dtype=self.dtype)(out)
    raise unknown_name("convolution", self.kind, CONVOLUTIONS)

  def _add_bias(self, out, fan_in):
    if not self.bias:
      return out
    bias = self.param("bias", uniform(fan_in), (out.shape[-1],), jnp.float32)
    return out + bias.astype(out.dtype)[None, None, None]

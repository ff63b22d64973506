"""Tokens by convolution, for compact transformers.

Source: Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", section 3.3.
"""

from typing import Any

import flax.linen as nn

from convnn_jax.errors import UserError, choose, unknown_name
from convnn_jax.layers.init import uniform

ACTIVATIONS = {"relu": nn.relu, "none": lambda x: x}
POOLS = ("max", "none")


class ConvTokenizer(nn.Module):
  """Stages of convolution, activation and max-pooling (3 x 3, stride 2): [b y x c] -> [b y' x' width].

  The tokens are the positions of the map, row by row.

  Attributes:
    width: channels of the last stage.
    num_stages: at least 1.
    kernel_size: side of the kernel; a stage is a patch embedding where kernel_size = stride.
    stride: of the convolutions.
    padding: zeros on each side of the image, before each convolution.
    stage_width: channels of the stages before the last.
    activation: "relu" or "none".
    pool: "max" or "none".
    bias: whether the convolutions have one.
    dtype: compute dtype.

  Raises:
    UserError: unknown word, a number outside its range, or an image smaller than the kernel.
  """

  width: int
  num_stages: int = 1
  kernel_size: int = 3
  stride: int = 1
  padding: int = 1
  stage_width: int = 64
  activation: str = "relu"
  pool: str = "max"
  bias: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, images):
    activation = choose("activation", self.activation, ACTIVATIONS)
    if self.pool not in POOLS:
      raise unknown_name("pool", self.pool, POOLS)
    for field, least in dict(num_stages=1, kernel_size=1, stride=1, padding=0, stage_width=1).items():
      if getattr(self, field) < least:
        raise UserError(f"{field}={getattr(self, field)} of the tokenizer must be at least {least}.")
    x = images
    for stage in range(self.num_stages):
      last = stage == self.num_stages - 1
      x = activation(self._convolution(x, self.width if last else self.stage_width, stage)(x))
      if self.pool == "max":
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
    return x

  def _convolution(self, x, features, stage):
    _, rows, columns, channels = x.shape
    k = self.kernel_size
    if min(rows, columns) + 2 * self.padding < k:
      raise UserError(
        f"kernel_size={k} of the tokenizer does not fit the {rows} x {columns} pixels at stage {stage}; choose a"
        " smaller kernel, fewer stages or a larger data.image_size."
      )
    return nn.Conv(
      features,
      (k, k),
      strides=(self.stride, self.stride),
      # Symmetric: "SAME" pads even sizes on one side only when the stride is 2.
      padding=((self.padding, self.padding),) * 2,
      use_bias=self.bias,
      kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
      bias_init=uniform(channels * k * k),
      dtype=self.dtype,
      name=f"convolution_{stage}",
    )

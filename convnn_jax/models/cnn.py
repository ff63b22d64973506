"""The small convolutional network of PyTorch's MNIST example, yardstick of the attention study.

Source: pytorch/examples, mnist/main.py, as used in holestine/Attention.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.errors import UserError
from convnn_jax.layers.dense import dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.init import kernel_init, uniform


class ConvStem(nn.Module):
  """Two 3 x 3 convolutions without padding, each with ReLU, then 2 x 2 max-pooling.

  images [b Y X c] -> [b y x channels[1]] with y = (Y - 4) // 2.

  Attributes:
    channels: output channels of the two convolutions.
    dtype: compute dtype.

  Raises:
    UserError: images of fewer than 6 pixels a side, or not two numbers of channels.
  """

  channels: tuple[int, int] = (32, 64)
  dtype: Any = None

  @nn.compact
  def __call__(self, images):
    if len(self.channels) != 2 or min(self.channels) < 1:
      raise UserError(f"stem_channels={tuple(self.channels)} must be two numbers of at least 1.")
    if min(images.shape[1:3]) < 6:
      raise UserError(
        f"Images of {images.shape[1]} x {images.shape[2]} pixels are too small for two 3 x 3 convolutions and pooling;"
        " data.image_size must be at least 6."
      )
    x = images
    for number, channels in enumerate(self.channels, start=1):
      x = nn.Conv(
        channels,
        (3, 3),
        padding="VALID",
        kernel_init=kernel_init,
        bias_init=uniform(9 * x.shape[-1]),
        dtype=self.dtype,
        name=f"conv{number}",
      )(x)
      x = nn.relu(x)
    return nn.max_pool(x, (2, 2), strides=(2, 2))


class CNN(nn.Module):
  """Convolutions, one hidden layer, linear readout: images [b y x c] -> logits [b num_classes] in float32.

  Attributes:
    num_classes: width of the output.
    stem_channels: output channels of the two convolutions.
    hidden_dim: width of the hidden layer.
    stem_dropout_rate: on the pooled feature map, element by element.
    hidden_dropout_rate: on the hidden layer.
    dtype: compute dtype; parameters and logits stay float32.
  """

  num_classes: int
  stem_channels: tuple[int, ...] = (32, 64)
  hidden_dim: int = 128
  stem_dropout_rate: float = 0.25
  hidden_dropout_rate: float = 0.5
  dtype: Any = None

  @nn.compact
  def __call__(self, images, *, train: bool):
    if self.hidden_dim < 1:
      raise UserError(f"model.hidden_dim={self.hidden_dim} must be at least 1.")
    drop = lambda rate, y: Dropout(rate)(y, deterministic=not train)
    x = ConvStem(self.stem_channels, self.dtype, name="stem")(images)
    x = drop(self.stem_dropout_rate, x)
    flatten = nn.DenseGeneral(
      self.hidden_dim,
      axis=(-3, -2, -1),
      kernel_init=kernel_init,
      bias_init=uniform(x[0].size),
      dtype=self.dtype,
      name="hidden_layer",
    )
    x = drop(self.hidden_dropout_rate, nn.relu(flatten(x)))
    logits = dense(self.num_classes, self.hidden_dim, bias=True, name="head", dtype=self.dtype)(x)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

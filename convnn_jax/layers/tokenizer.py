"""From images to tokens."""

from typing import Any

import flax.linen as nn

from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.init import kernel_init, uniform
from convnn_jax.layers.norm import layer_norm

NORMS = ("layer_norm", "none")


class PatchEmbedding(nn.Module):
  """Non-overlapping patches, one linear map, norm: images [b y x c] -> tokens [b n width].

  Attributes:
    patch_size: side of a patch in pixels; must divide both sides of the image.
    width: channels of a token.
    norm: "layer_norm" of every token, or "none".
    dtype: compute dtype.

  Raises:
    UserError: the image cannot be cut into patches, or an unknown norm.
  """

  patch_size: int
  width: int
  norm: str = "layer_norm"
  dtype: Any = None

  @nn.compact
  def __call__(self, images):
    b, rows, columns, channels = images.shape
    p = self.patch_size
    if p < 1 or rows % p or columns % p:
      raise UserError(
        f"patch_size={p} must divide the image of {rows} x {columns} pixels; choose another patch_size or"
        " data.image_size."
      )
    tokens = nn.Conv(
      self.width,
      (p, p),
      strides=(p, p),
      padding="VALID",
      kernel_init=kernel_init,
      bias_init=uniform(channels * p * p),
      dtype=self.dtype,
      name="projection",
    )(images)
    tokens = tokens.reshape(b, -1, self.width)
    if self.norm not in NORMS:
      raise unknown_name("norm of the patches", self.norm, NORMS)
    return tokens if self.norm == "none" else layer_norm("norm", self.dtype)(tokens)

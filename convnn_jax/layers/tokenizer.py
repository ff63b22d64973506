"""From images to tokens."""

from typing import Any

import flax.linen as nn

from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.init import kernel_init, uniform
from convnn_jax.layers.norm import layer_norm

# Which sides of the linear map have a LayerNorm.
PATCH_NORMS = ("none", "after", "both")


def patch_sides(patch_size) -> tuple[int, int]:
  """(rows, columns) of a patch, from one number or two."""
  return (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)


class PatchEmbedding(nn.Module):
  """Non-overlapping patches, one linear map, norm: images [b y x c] -> tokens [b n width].

  Attributes:
    patch_size: sides of a patch in pixels: one number, or (rows, columns); must divide the sides of the image.
    width: channels of a token.
    norm: LayerNorm "after" the linear map, on "both" sides of it (over the pixels of a patch, and after), or "none".
    dtype: compute dtype.

  Raises:
    UserError: the image cannot be cut into patches, or an unknown norm.
  """

  patch_size: int | tuple[int, int]
  width: int
  norm: str = "after"
  dtype: Any = None

  @nn.compact
  def __call__(self, images):
    if self.norm not in PATCH_NORMS:
      raise unknown_name("patch_norm", self.norm, PATCH_NORMS)
    b, rows, columns, channels = images.shape
    p, q = patch_sides(self.patch_size)
    if p < 1 or q < 1 or rows % p or columns % q:
      raise UserError(
        f"patch_size={self.patch_size} must divide the image of {rows} x {columns} pixels; choose another patch_size"
        " or data.image_size."
      )
    options = dict(
      kernel_init=kernel_init, bias_init=uniform(channels * p * q), dtype=self.dtype, name="projection"
    )
    if self.norm == "both":
      patches = images.reshape(b, rows // p, p, columns // q, q, channels).transpose(0, 1, 3, 2, 4, 5)
      patches = layer_norm("pixel_norm", self.dtype)(patches.reshape(b, -1, p * q * channels))
      project = nn.DenseGeneral(
        self.width, axis=(-3, -2, -1), **options
      )  # the kernel of the convolution below
      tokens = project(patches.reshape(b, -1, p, q, channels))
    else:
      tokens = nn.Conv(self.width, (p, q), strides=(p, q), padding="VALID", **options)(images)
      tokens = tokens.reshape(b, -1, self.width)
    return tokens if self.norm == "none" else layer_norm("norm", self.dtype)(tokens)

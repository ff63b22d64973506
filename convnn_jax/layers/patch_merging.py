"""Halving a grid of tokens: four neighbours become one token of twice the width.

Source: Liu et al., "Swin Transformer", section 3.1; in V2 the norm comes last.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.errors import UserError
from convnn_jax.layers.dense import dense
from convnn_jax.layers.norm import layer_norm


class PatchMerging(nn.Module):
  """x [b y x c] -> [b y/2 x/2 2c].

  Attributes:
    norm_placement: "pre" normalises the four neighbours' 4c channels, "post" the result.
    dtype: compute dtype.

  Raises:
    UserError: a side of the grid is odd.
  """

  norm_placement: str = "pre"
  dtype: Any = None

  @nn.compact
  def __call__(self, x):
    b, rows, columns, c = x.shape
    if rows % 2 or columns % 2:
      raise UserError(
        f"A grid of {rows} x {columns} tokens cannot be halved; choose another data.image_size or patch_size, fewer"
        " model.depths (stages), or model.padding='window'; configs/swin_nano.py fits small images."
      )
    quads = x.reshape(b, rows // 2, 2, columns // 2, 2, c)
    # The published order: down the rows first, (0, 0), (1, 0), (0, 1), (1, 1).
    x = quads.transpose(0, 1, 3, 4, 2, 5).reshape(b, rows // 2, columns // 2, 4 * c)
    norm = layer_norm("norm", self.dtype)
    x = norm(x) if self.norm_placement == "pre" else x
    x = dense(2 * c, 4 * c, bias=False, name="reduction", dtype=self.dtype, init="normal")(x)
    return norm(x) if self.norm_placement == "post" else x


def pad_grid(x, rows: int, columns: int):
  """Appends zero tokens below and to the right: [b y x c] -> [b y+rows x+columns c]."""
  return jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0))) if rows or columns else x

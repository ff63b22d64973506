"""The Swin block: any attention in windows of the grid, every other time in shifted ones.

Source: Liu et al., "Swin Transformer", section 3.2; V2, section 3.1, for norms behind the branches; SwinMLP, in their
code, for the shift by padding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention import TokenGrid, make_attention
from convnn_jax.attention.base import wants_weights
from convnn_jax.layers.drop_path import DropPath
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.patch_merging import pad_grid
from convnn_jax.ops import windows
from convnn_jax.ops.masks import HIDDEN


class SwinBlock(nn.Module):
  """Residual branches for attention, positions (optional) and channels: x [b y x c] -> [b y x c].

  Where the tokens of its windows stand in the image is sown on request as "attention_places" and "spatial_mlp_places"
  (see ops/windows.py, window_places).

  Attributes:
    attention: spec of any registered attention; it sees [b*w n c].
    mlp_dim: hidden width of the MLP.
    window: rows and columns.
    shift: how far the windows are moved, rows and columns.
    shift_kind: "roll" (cyclic, a mask keeps apart what is not adjacent) or "pad" (zeros around, no mask).
    padding: "none", or "window": zeros, hidden from attention, fill the grid up to whole windows.
    norm_placement: "pre", or "post": on the result of each branch, with an initial scale of 0.
    spatial_mlp: None, or the spec of a further branch between attention and MLP, whose windows are shifted by half
      where the attention's are not, and the other way round.
    mask_value: added to the scores of tokens that are not adjacent in the image.
    dropout_rate: after attention, in and after the MLP.
    drop_path_rate: of each branch.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  mlp_dim: int
  window: tuple[int, int]
  shift: tuple[int, int] = (0, 0)
  shift_kind: str = "roll"
  padding: str = "none"
  norm_placement: str = "pre"
  spatial_mlp: Mapping[str, Any] | None = None
  mask_value: float = -100.0
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool):
    grid = x.shape[1:3]
    window, shift = windows.fit_window(grid, self.window, self.shift)
    attention = make_attention(self.attention, dtype=self.dtype, name="attention")
    attend = lambda y: self._in_windows(attention, y, window, shift, self.shift_kind, train)
    x = self._branch(x, "norm1", attend, train)
    if self.spatial_mlp is not None:
      mixer = make_attention(self.spatial_mlp, dtype=self.dtype, name="spatial_mlp")
      opposite = _opposite(grid, window, shift)
      mix = lambda y: self._in_windows(mixer, y, window, opposite, "pad", train)
      x = self._branch(x, "norm_spatial", mix, train)
    mlp = Mlp(self.mlp_dim, self.dropout_rate, init="normal", dtype=self.dtype, name="mlp")
    return self._branch(x, "norm2", lambda y: mlp(y, train=train), train)

  def _branch(self, x, norm_name: str, branch: Callable, train: bool):
    """x + drop(branch(norm(x))), or x + drop(norm(branch(x)))."""
    post = self.norm_placement == "post"
    norm = layer_norm(norm_name, self.dtype, scale=0.0 if post else 1.0)
    y = branch(x if post else norm(x))
    y = Dropout(self.dropout_rate)(y, deterministic=not train)
    y = norm(y) if post else y
    return x + DropPath(self.drop_path_rate)(y, deterministic=not train)

  def _in_windows(self, module, x, window, shift, kind, train):
    """Applies an attention to each window: [b y x c] -> [b y x c]."""
    b, rows, columns, _ = x.shape
    if self.padding == "window":
      x = pad_grid(x, *windows.missing((rows, columns), window))
    padded = x.shape[1:3]
    options: dict[str, Any] = dict(train=train, grid=TokenGrid(*window))
    if wants_weights(self):
      places = windows.window_places((rows, columns), padded, window, shift, kind)
      self.sow("intermediates", f"{module.name}_places", jnp.asarray(places))
    if kind == "pad":
      around = windows.around(window, shift)
      x = jnp.pad(x, ((0, 0), *around, (0, 0)))
      y = windows.reverse(module(windows.partition(x, window), **options), window, x.shape[1:3])
      return y[:, around[0][0] :, around[1][0] :][:, :rows, :columns]
    cut = windows.partition(windows.shift(x, shift), window)
    bias = self._mask((rows, columns), padded, window, shift)
    if bias is not None:  # [w n n] -> [b*w 1 n n]
      bias = jnp.broadcast_to(bias[None, :, None], (b, len(bias), 1, *bias.shape[1:]))
      options["bias"] = bias.reshape(-1, *bias.shape[2:]).astype(jnp.promote_types(x.dtype, jnp.float32))
    y = windows.reverse(module(cut, **options), window, padded)
    return windows.shift(y, (-shift[0], -shift[1]))[:, :rows, :columns]

  def _mask(self, grid, padded, window, shift):
    """What is added to the scores, [w n n], or None."""
    bias = None
    if any(shift):
      bias = jnp.where(windows.same_region(padded, window, shift), 0.0, self.mask_value)
    if padded != grid:
      present = windows.inside(grid, padded, window, shift)[:, None]
      hidden = jnp.where(present, 0.0, HIDDEN)
      bias = hidden + (jnp.zeros((window[0] * window[1],) * 2)[None] if bias is None else bias)
    return bias


def _opposite(grid, window, shift):
  """Half a window where `shift` is 0, and 0 where it is not; 0 along an axis that is one window."""
  half = lambda length, side: 0 if length <= side else side // 2
  return tuple(0 if any(shift) else half(length, side) for length, side in zip(grid, window, strict=True))

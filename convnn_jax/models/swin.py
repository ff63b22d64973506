"""Swin Transformer, V1 and V2, and SwinMLP: stages of halved grids around any attention in windows.

Sources: Liu et al., "Swin Transformer" and "Swin Transformer V2"; SwinMLP, in their code; "Improving Redundancy in
Attention", a fork of Swin, for the MLP before attention. The branch `sw_mlp="spatial"` is our reading of an idea that
the fork names without carrying it out: SwinMLP's mixing of positions, shifted where the attention is not.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.per_stage import spec_of_stage
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import dense
from convnn_jax.layers.drop_path import DropPath, drop_path_rates
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.patch_merging import PatchMerging, pad_grid
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.layers.tokenizer import PatchEmbedding
from convnn_jax.models.layer_loop import apply_blocks
from convnn_jax.models.swin_block import SwinBlock
from convnn_jax.ops.windows import pair

# field -> legal words
WORDS = {
  "norm_placement": ("pre", "post"),
  "pre_mlp": ("none", "stem", "stage"),
  "sw_mlp": ("none", "spatial"),
  "shift": ("roll", "pad"),
  "padding": ("none", "window"),
}


class Swin(nn.Module):
  """images [b y x c] -> logits [b num_classes] in float32.

  Stage i has width * 2^i channels on a grid of image / (patch_size * 2^i) tokens. Where a grid is no larger than the
  window, the window is the grid (a square one: its shorter side) and nothing is shifted.

  Attributes:
    num_classes: width of the output; 0 = the pooled features.
    patch_size: side of a patch in pixels.
    width: c, channels of a token in the first stage.
    depths: number of blocks of each stage.
    window_size: rows and columns in tokens; one number for squares.
    mlp_ratio: hidden width of the MLPs over the width.
    attention: spec of the attention in every block. A tuple for a field that takes one value is a value per stage:
      num_heads=(3, 6, 12, 24).
    norm_placement: "pre" (V1), or "post": on the result of each branch, starting at 0, and of the merging (V2).
    patch_norm: LayerNorm "after" the patches' linear map, on "both" sides of it, or "none".
    position_embedding: "none", "learned" or "sincos", added to the patches.
    pre_mlp: an MLP before attention: "none", once at the "stem", or at every "stage" (with drop path).
    sw_mlp: a branch that mixes positions in each block: "none" or "spatial".
    shift: how windows are shifted: "roll", with a mask, or "pad", for attentions without scores (SwinMLP).
    padding: "none" (grids must be whole windows), or "window": fills grids up, hidden from attention.
    mask_value: added to the scores of tokens that are not adjacent; -100 as published.
    dropout_rate: after patches, attention, and in and after the MLPs.
    drop_path_rate: of the last block; rises evenly from 0 at the first.
    scan_layers: how the blocks of a stage run: "auto", "dots", "full" or "unrolled", see models/layer_loop.py.
    dtype: compute dtype; parameters, norms, scores and logits stay float32.
  """

  num_classes: int
  patch_size: int = 4
  width: int = 96
  depths: tuple[int, ...] = (2, 2, 6, 2)
  window_size: tuple[int, ...] = (7, 7)
  mlp_ratio: float = 4.0
  attention: Mapping[str, Any] | None = None
  norm_placement: str = "pre"
  patch_norm: str = "after"
  position_embedding: str = "none"
  pre_mlp: str = "none"
  sw_mlp: str = "none"
  shift: str = "roll"
  padding: str = "none"
  mask_value: float = -100.0
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.1
  scan_layers: str = "auto"
  dtype: Any = None

  # Its attention may have fields with a value per stage.
  staged = True

  @nn.compact
  def __call__(self, images, *, train: bool):
    self._check()
    p = self.patch_size
    x = PatchEmbedding(p, self.width, self.patch_norm, dtype=self.dtype, name="patch_embedding")(images)
    x = PositionEmbedding(self.position_embedding, name="position_embedding")(x)
    x = Dropout(self.dropout_rate)(x, deterministic=not train)
    x = x.reshape(len(x), images.shape[1] // p, images.shape[2] // p, self.width)
    if self.pre_mlp == "stem":
      x = x + _pre_mlp(x, self.mlp_ratio, 0.0, train, self.dtype)
    for stage in range(len(self.depths)):
      x = self._stage(stage)(x, train=train)
    x = layer_norm("final_norm", self.dtype)(x)
    pooled = jnp.mean(x, axis=(1, 2))
    if self.num_classes:
      pooled = dense(
        self.num_classes, pooled.shape[-1], bias=True, name="head", dtype=self.dtype, init="normal"
      )(pooled)
    return pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))

  def _stage(self, stage):
    before, depth = sum(self.depths[:stage]), self.depths[stage]
    rates = drop_path_rates(self.drop_path_rate, sum(self.depths))[before : before + depth]
    spec = spec_of_stage(self.attention, stage, len(self.depths))
    window = pair("model.window_size", self.window_size)
    block = dict(
      attention=spec,
      mlp_dim=int(self.width * 2**stage * self.mlp_ratio),
      window=window,
      shift_kind=self.shift,
      padding=self.padding,
      norm_placement=self.norm_placement,
      mask_value=self.mask_value,
      dropout_rate=self.dropout_rate,
      dtype=self.dtype,
    )
    if self.sw_mlp == "spatial":
      block["spatial_mlp"] = dict(name="spatial_mlp", num_heads=spec.get("num_heads", 1))
    last = stage == len(self.depths) - 1
    pre_mlp_ratio = self.mlp_ratio if self.pre_mlp == "stage" else 0.0
    return SwinStage(
      block, tuple(rates), pre_mlp_ratio, merge=not last, scan_layers=self.scan_layers, name=f"stage_{stage}"
    )

  def _check(self):
    if self.attention is None:
      raise UserError("model.attention must name an attention, for example dict(name='window').")
    for field, words in WORDS.items():
      if getattr(self, field) not in words:
        raise unknown_name(f"model.{field}", getattr(self, field), words)
    if self.width < 1 or self.mlp_ratio <= 0:
      raise UserError(f"model.width={self.width} and mlp_ratio={self.mlp_ratio} must be larger than 0.")
    if not self.depths or any(not isinstance(depth, int) or depth < 0 for depth in self.depths):
      raise UserError(f"model.depths={self.depths} must list the blocks of each stage, such as (2, 2, 6, 2).")
    if min(pair("model.window_size", self.window_size)) < 1:
      raise UserError(f"model.window_size={self.window_size} must be at least 1.")


class SwinStage(nn.Module):
  """Blocks on one grid, then merging: x [b y x c] -> [b y/2 x/2 2c].

  Attributes:
    block: fields of SwinBlock that its blocks have in common.
    drop_path_rates: one per block.
    pre_mlp_ratio: of the MLP in front of the blocks; 0 = none.
    merge: whether the grid is halved at the end.
    scan_layers: see models/layer_loop.py.
  """

  block: Mapping[str, Any]
  drop_path_rates: tuple[float, ...]
  pre_mlp_ratio: float = 0.0
  merge: bool = True
  scan_layers: str = "auto"

  @nn.compact
  def __call__(self, x, *, train: bool):
    common = dict(self.block)
    if self.pre_mlp_ratio:
      rate = self.drop_path_rates[0] if self.drop_path_rates else 0.0
      y = _pre_mlp(x, self.pre_mlp_ratio, common["dropout_rate"], train, common["dtype"])
      x = x + DropPath(rate)(y, deterministic=not train)
    half = tuple(side // 2 for side in common["window"])
    blocks = [
      common | dict(shift=half if index % 2 else (0, 0), drop_path_rate=rate)
      for index, rate in enumerate(self.drop_path_rates)
    ]
    x = apply_blocks(self, SwinBlock, blocks, x, scan_layers=self.scan_layers, train=train)
    if not self.merge:
      return x
    if common["padding"] == "window":
      x = pad_grid(x, x.shape[1] % 2, x.shape[2] % 2)
    return PatchMerging(common["norm_placement"], dtype=common["dtype"], name="merging")(x)


def _pre_mlp(x, ratio, dropout_rate, train, dtype):
  """mlp(norm(x)), pre-norm in every version; to be called in a compact method."""
  y = layer_norm("pre_norm", dtype)(x)
  mlp = Mlp(int(x.shape[-1] * ratio), dropout_rate, init="normal", dtype=dtype, name="pre_mlp")
  return Dropout(dropout_rate)(mlp(y, train=train), deterministic=not train)

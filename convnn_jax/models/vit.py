"""Vision Transformer around any attention.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words"; the defaults are those of the published ConvNN code
(patches normalised, fixed sine positions, no final norm, class token).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.base import TokenGrid
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import dense
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.layers.tokenizer import PatchEmbedding
from convnn_jax.models.encoder import EncoderBlock

POOLINGS = ("cls", "mean")
FINAL_NORMS = ("none", "layer_norm")


class ViT(nn.Module):
  """images [b y x c] -> logits [b num_classes] in float32.

  Attributes:
    num_classes: width of the output.
    patch_size: side of a patch in pixels.
    width: c, channels of a token.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    attention: spec of the attention in every block.
    dropout_rate: after attention, in and after the MLP.
    position_embedding: "sincos", "learned" or "none".
    pooling: "cls" (a class token in front, which is read out) or "mean" (no class token, mean of all tokens).
    final_norm: "none" or "layer_norm" before the readout.
    dtype: compute dtype; parameters, norms, scores and logits stay float32.
  """

  num_classes: int
  patch_size: int = 16
  width: int = 192
  depth: int = 12
  mlp_dim: int = 768
  attention: Mapping[str, Any] | None = None
  dropout_rate: float = 0.1
  position_embedding: str = "sincos"
  pooling: str = "cls"
  final_norm: str = "none"
  dtype: Any = None

  @nn.compact
  def __call__(self, images, *, train: bool):
    self._check()
    p = self.patch_size
    x = PatchEmbedding(p, self.width, dtype=self.dtype, name="patch_embedding")(images)
    if self.pooling == "cls":
      token = self.param("class_token", nn.initializers.normal(1.0), (1, 1, self.width))
      token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    x = PositionEmbedding(self.position_embedding, name="position_embedding")(x)
    grid = TokenGrid(images.shape[1] // p, images.shape[2] // p, num_prefix=int(self.pooling == "cls"))
    for layer in range(self.depth):
      x = EncoderBlock(
        self.attention, self.mlp_dim, self.dropout_rate, dtype=self.dtype, name=f"block_{layer}"
      )(x, train=train, grid=grid)
    if self.final_norm == "layer_norm":
      x = layer_norm("final_norm", self.dtype)(x)
    pooled = x[:, 0] if self.pooling == "cls" else jnp.mean(x, axis=1)
    logits = dense(self.num_classes, self.width, bias=True, name="head", dtype=self.dtype)(pooled)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  def _check(self):
    if self.attention is None:
      raise UserError("model.attention must name an attention, for example dict(name='softmax').")
    if self.pooling not in POOLINGS:
      raise unknown_name("pooling", self.pooling, POOLINGS)
    if self.final_norm not in FINAL_NORMS:
      raise unknown_name("final_norm", self.final_norm, FINAL_NORMS)
    for field in ("width", "depth", "mlp_dim"):
      if getattr(self, field) < 1:
        raise UserError(f"model.{field}={getattr(self, field)} must be at least 1.")

"""Vision Transformer around any attention.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words"; the defaults are those of the published ConvNN code
(patches normalised, fixed sine positions, no final norm, class token). The fields cover vit-pytorch's ViT and, with
`reattention`, its DeepViT, too: models/study_presets.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention.base import TokenGrid
from convnn_jax.errors import UserError, choose, unknown_name
from convnn_jax.layers.dense import dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.layers.tokenizer import PatchEmbedding, patch_sides
from convnn_jax.models.encoder import EncoderBlock
from convnn_jax.models.layer_loop import apply_blocks
from convnn_jax.models.readout import POOLINGS, QueryPooling

FINAL_NORMS = ("none", "layer_norm", "after_pooling")


class ViT(nn.Module):
  """images [b y x c] -> logits [b num_classes] in float32.

  Attributes:
    num_classes: width of the output.
    patch_size: side of a patch in pixels; in code also (rows, columns).
    patch_norm: LayerNorm "after" the patches' linear map, on "both" sides of it, or "none".
    width: c, channels of a token.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    attention: spec of the attention in every block.
    dropout_rate: after attention, in and after the MLP.
    embedding_dropout_rate: on the tokens that enter the first block.
    position_embedding: "sincos", "sincos_one_frequency" (a published slip), "learned" or "none".
    position_std: standard deviation of new learned positions; others have none.
    num_positions: rows of the learned table, of which the first are used; 0 = one per token. The published study has
      hundreds of times more rows than tokens.
    pooling: "cls" (a class token in front, which is read out), "mean" (no class token, mean of all tokens), "mean_all"
      (mean of class token and patches) or "query" (learned queries cross-attend to the tokens, by the same attention).
    num_queries: of pooling="query"; 1 with any other.
    final_norm: "none", "layer_norm" (of the tokens, before pooling) or "after_pooling".
    norm_epsilon: of the norms in the blocks and of the final one; pretrained ViTs have 1e-6 (published code, timm) or
      1e-12 (Hugging Face).
    activation: of the MLPs: "gelu" (exact; timm, Hugging Face), "gelu_tanh" (its approximation, in the published JAX
      code) or "relu".
    scan_layers: how the blocks run: "auto", "dots", "full" or "unrolled", see models/layer_loop.py.
    dtype: compute dtype; parameters, norms, scores and logits stay float32.
  """

  num_classes: int
  patch_size: int | tuple[int, int] = 16
  patch_norm: str = "after"
  width: int = 192
  depth: int = 12
  mlp_dim: int = 768
  attention: Mapping[str, Any] | None = None
  dropout_rate: float = 0.1
  embedding_dropout_rate: float = 0.0
  position_embedding: str = "sincos"
  position_std: float = 0.02
  num_positions: int = 0
  pooling: str = "cls"
  num_queries: int = 1
  final_norm: str = "none"
  norm_epsilon: float = 1e-5
  activation: str = "gelu"
  scan_layers: str = "auto"
  dtype: Any = None

  @nn.compact
  def __call__(self, images, *, train: bool):
    self._check()
    x, grid = self._embed(images, train)
    block = dict(
      attention=self.attention,
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      norm_epsilon=self.norm_epsilon,
      activation=self.activation,
      dtype=self.dtype,
    )
    blocks = [block] * self.depth
    x = apply_blocks(self, EncoderBlock, blocks, x, scan_layers=self.scan_layers, train=train, grid=grid)
    if self.final_norm == "layer_norm":
      x = layer_norm("final_norm", self.dtype, epsilon=self.norm_epsilon)(x)
    pooled = self._pool(x, train)
    if self.final_norm == "after_pooling":
      pooled = layer_norm("final_norm", self.dtype, epsilon=self.norm_epsilon)(pooled)
    logits = dense(self.num_classes, self.width, bias=True, name="head", dtype=self.dtype)(pooled)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  def _patch_size(self, images):
    """Sides of a patch of `images`; for backbones that derive it."""
    del images
    return self.patch_size

  def _embed(self, images, train):
    """Images -> tokens [b n c] with positions, and their layout."""
    patch_size = self._patch_size(images)
    p, q = patch_sides(patch_size)
    x = PatchEmbedding(patch_size, self.width, self.patch_norm, self.dtype, name="patch_embedding")(images)
    has_class_token = POOLINGS[self.pooling]
    if has_class_token:
      token = self.param("class_token", nn.initializers.normal(1.0), (1, 1, self.width))
      token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    x = PositionEmbedding(
      self.position_embedding, self.position_std, self.num_positions, name="position_embedding"
    )(x)
    x = Dropout(self.embedding_dropout_rate)(x, deterministic=not train)
    return x, TokenGrid(images.shape[1] // p, images.shape[2] // q, num_prefix=int(has_class_token))

  def _pool(self, x, train):
    """Tokens [b n c] -> [b c]."""
    if self.pooling == "cls":
      return x[:, 0]
    if self.pooling == "query":
      return QueryPooling(self.attention, self.num_queries, self.dtype, name="query_pooling")(x, train=train)
    return jnp.mean(x, axis=1)

  def _check(self):
    if self.attention is None:
      raise UserError("model.attention must name an attention, for example dict(name='softmax').")
    choose("pooling", self.pooling, POOLINGS)
    if self.num_queries != 1 and self.pooling != "query":
      raise UserError(
        f"model.num_queries={self.num_queries} has no effect with pooling='{self.pooling}'; leave it out, or use"
        " pooling='query'."
      )
    if self.final_norm not in FINAL_NORMS:
      raise unknown_name("final_norm", self.final_norm, FINAL_NORMS)
    for field in ("width", "depth", "mlp_dim"):
      if getattr(self, field) < 1:
        raise UserError(f"model.{field}={getattr(self, field)} must be at least 1.")

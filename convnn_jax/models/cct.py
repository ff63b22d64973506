"""Compact transformers around any attention: CCT, CVT and ViT-Lite.

Source: Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers". The three differ in two words:
CCT has tokenizer="convolution" and pooling="sequence", CVT tokenizer="patches" and pooling="sequence", ViT-Lite
tokenizer="patches" and pooling="cls". Their named variants are in presets.py.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from convnn_jax.attention import make_attention
from convnn_jax.attention.base import TokenGrid
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.conv_tokenizer import ConvTokenizer
from convnn_jax.layers.dense import dense
from convnn_jax.layers.drop_path import DropPath, drop_path_rates
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pooling import SequencePooling
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.models.layer_loop import apply_blocks

TOKENIZERS = ("convolution", "patches")
POOLINGS = ("sequence", "cls", "mean")


def _stride(kernel_size):
  return max(1, kernel_size // 2 - 1)


def _padding(kernel_size):
  return max(1, kernel_size // 2)


def token_grid(spec: Mapping[str, Any], image: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns of the tokens of an image, for a complete spec."""
  if spec["tokenizer"] == "patches":
    return tuple(side // spec["patch_size"] for side in image)
  k = spec["kernel_size"]
  stride, padding = spec["stride"] or _stride(k), spec["padding"]
  padding = _padding(k) if padding == -1 else padding
  sides = image
  for _ in range(spec["num_convolutions"]):
    sides = tuple((side + 2 * padding - k) // stride + 1 for side in sides)
    sides = tuple((side - 1) // 2 + 1 for side in sides)  # pooling: 3 wide, stride 2, padding 1
  return sides


class CompactBlock(nn.Module):
  """x = norm2(x + attention(norm1(x))); x = x + mlp(x): x [b n c] -> [b n c].

  The second norm lies on the residual stream, not inside the branch of the MLP as in a pre-norm block. Both branches
  have dropout and stochastic depth.

  Attributes:
    attention: spec of any registered attention.
    mlp_dim: hidden width of the MLP.
    dropout_rate: after the attention, inside the MLP and after it.
    drop_path_rate: of each of the two branches.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  mlp_dim: int
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.0
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool, bias=None, grid=None):
    def drop(branch):
      branch = Dropout(self.dropout_rate)(branch, deterministic=not train)
      return DropPath(self.drop_path_rate)(branch, deterministic=not train)

    attention = make_attention(self.attention, dtype=self.dtype, name="attention")
    y = layer_norm("norm1", self.dtype)(x)
    x = layer_norm("norm2", self.dtype)(x + drop(attention(y, train=train, bias=bias, grid=grid)))
    mlp = Mlp(self.mlp_dim, self.dropout_rate, init="normal", dtype=self.dtype, name="mlp")
    return x + drop(mlp(x, train=train))


class CCT(nn.Module):
  """images [b y x c], of any shape -> logits [b num_classes] in float32.

  Every config has all fields; those of the tokenizer that is not chosen have no part.

  Attributes:
    num_classes: width of the output.
    tokenizer: "convolution" (stages of convolution, ReLU and max-pooling) or "patches".
    kernel_size: of the convolutions.
    num_convolutions: stages; each halves the sides at least.
    stride: of the convolutions; 0 = max(1, kernel_size // 2 - 1).
    padding: of the convolutions; -1 = max(1, kernel_size // 2).
    stage_width: channels of the stages before the last.
    patch_size: side of a patch in pixels, with tokenizer="patches".
    width: c, channels of a token.
    depth: number of blocks.
    mlp_dim: hidden width of the MLPs.
    attention: spec of the attention in every block.
    dropout_rate: after positions, attention, in and after the MLP.
    drop_path_rate: stochastic depth of the last block; it grows evenly from 0 at the first.
    position_embedding: "learned" (standard deviation 0.2), "sincos" or "none".
    pooling: "sequence" (learned weighted mean), "cls" (a class token in front, which is read out) or "mean".
    scan_layers: how the blocks run: "auto", "dots", "full" or "unrolled", see models/layer_loop.py.
    dtype: compute dtype; parameters, norms, scores and logits stay float32.
  """

  num_classes: int
  tokenizer: str = "convolution"
  kernel_size: int = 3
  num_convolutions: int = 2
  stride: int = 0
  padding: int = -1
  stage_width: int = 64
  patch_size: int = 4
  width: int = 128
  depth: int = 2
  mlp_dim: int = 128
  attention: Mapping[str, Any] | None = None
  dropout_rate: float = 0.0
  drop_path_rate: float = 0.1
  position_embedding: str = "learned"
  pooling: str = "sequence"
  scan_layers: str = "auto"
  dtype: Any = None

  @nn.compact
  def __call__(self, images, *, train: bool):
    self._check(images)
    x = self._tokens()(images)
    grid = TokenGrid(*x.shape[1:3], num_prefix=int(self.pooling == "cls"))
    x = x.reshape(x.shape[0], -1, self.width)
    if self.pooling == "cls":
      token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
      token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
      x = jnp.concatenate([token, x], axis=1)
    x = PositionEmbedding(self.position_embedding, std=0.2, name="position_embedding")(x)
    x = Dropout(self.dropout_rate)(x, deterministic=not train)
    block = dict(
      attention=self.attention, mlp_dim=self.mlp_dim, dropout_rate=self.dropout_rate, dtype=self.dtype
    )
    blocks = [block | dict(drop_path_rate=rate) for rate in drop_path_rates(self.drop_path_rate, self.depth)]
    x = apply_blocks(self, CompactBlock, blocks, x, scan_layers=self.scan_layers, train=train, grid=grid)
    x = self._pool(layer_norm("final_norm", self.dtype)(x))
    logits = dense(self.num_classes, self.width, bias=True, name="head", dtype=self.dtype, init="normal")(x)
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  def _tokens(self):
    shared = dict(width=self.width, dtype=self.dtype, name="tokens")
    if self.tokenizer == "patches":
      p = self.patch_size
      return ConvTokenizer(
        kernel_size=p, stride=p, padding=0, activation="none", pool="none", bias=True, **shared
      )
    k = self.kernel_size
    return ConvTokenizer(
      num_stages=self.num_convolutions,
      kernel_size=k,
      stride=self.stride or _stride(k),
      padding=_padding(k) if self.padding == -1 else self.padding,
      stage_width=self.stage_width,
      **shared,
    )

  def _pool(self, x):
    if self.pooling == "sequence":
      return SequencePooling(dtype=self.dtype, name="pooling")(x)
    return x[:, 0] if self.pooling == "cls" else jnp.mean(x, axis=1)

  def _check(self, images):
    if self.attention is None:
      raise UserError("model.attention must name an attention, for example dict(name='softmax').")
    if self.tokenizer not in TOKENIZERS:
      raise unknown_name("tokenizer", self.tokenizer, TOKENIZERS)
    if self.pooling not in POOLINGS:
      raise unknown_name("pooling", self.pooling, POOLINGS)
    for field in ("width", "depth", "mlp_dim", "patch_size"):
      if getattr(self, field) < 1:
        raise UserError(f"model.{field}={getattr(self, field)} must be at least 1.")
    rows, columns, p = *images.shape[1:3], self.patch_size
    if self.tokenizer == "patches" and (rows % p or columns % p):
      raise UserError(
        f"patch_size={p} must divide the image of {rows} x {columns} pixels; choose another patch_size or"
        " data.image_size."
      )

"""The encoder-decoder transformer, post-norm, around any attention.

Source: Vaswani et al., "Attention Is All You Need", sections 3.1 to 3.5, in the form of
fkodom/transformer-from-scratch: sequences of vectors in, positions added to them as they are. Embedding of words,
scaling and loss are the caller's: docs/transformer.md.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.attention import make_attention
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.ops.masks import causal, hidden_bias
from convnn_jax.ops.products import mix_values
from convnn_jax.ops.similarity import similarity

DECODER_MASKS = ("none", "causal")
OUTPUTS = ("logits", "probs", "hidden")


def scaled_dot_product_attention(query, key, value, bias=None):
  """softmax(q k^T / sqrt(d)) v, without parameters or dropout.

  Source: Vaswani et al., section 3.2.1.

  Args:
    query: [b n h d].
    key: [b m h d].
    value: [b m h d'].
    bias: added to the scores, broadcast to [b h n m]; a large negative value hides a candidate.

  Returns:
    [b n h d'].
  """
  scores = similarity(query, key, kind="dot", scale=query.shape[-1] ** -0.5)
  weights = jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)
  return mix_values(weights.astype(value.dtype), value)


class EncoderLayer(nn.Module):
  """x = norm(x + attention(x)); x = norm(x + mlp(x)): x [b n c] -> [b n c].

  Attributes:
    attention: spec of any registered attention.
    mlp_dim: hidden width of the MLP.
    dropout_rate: after the attention and after the MLP.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  mlp_dim: int
  dropout_rate: float = 0.1
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool, bias=None):
    """`bias` is added to the scores, broadcast to [b h n n]."""
    attention = make_attention(self.attention, dtype=self.dtype, name="attention")
    x = self._add_and_norm("norm1", x, attention(x, train=train, bias=bias), train)
    return self._feed_forward("norm2", x, train)

  def _feed_forward(self, norm, x, train):
    y = Mlp(self.mlp_dim, activation="relu", dtype=self.dtype, name="mlp")(x, train=train)
    return self._add_and_norm(norm, x, y, train)

  def _add_and_norm(self, norm, x, y, train):
    """LayerNorm(x + dropout(y))."""
    return layer_norm(norm, self.dtype)(x + Dropout(self.dropout_rate)(y, deterministic=not train))


class DecoderLayer(EncoderLayer):
  """An encoder layer with attention to a memory between its two parts: x [b n c], memory [b m c] -> [b n c].

  Attributes: those of EncoderLayer; both attentions are built from the one spec, which must have a meaning in
  cross-attention.
  """

  @nn.compact
  def __call__(self, x, memory, *, train: bool, bias=None, memory_bias=None):
    """`bias` [b h n n] and `memory_bias` [b h n m] are added to the scores."""
    own, cross = (
      make_attention(self.attention, dtype=self.dtype, name=name) for name in ("attention", "cross_attention")
    )
    x = self._add_and_norm("norm1", x, own(x, train=train, bias=bias), train)
    y = cross(x, train=train, context=memory, bias=memory_bias)
    x = self._add_and_norm("norm2", x, y, train)
    return self._feed_forward("norm3", x, train)


class Encoder(nn.Module):
  """Positions, then layers: x [b n c] -> [b n c].

  Attributes:
    attention: spec of any registered attention.
    depth: number of layers.
    mlp_dim: hidden width of the MLPs.
    dropout_rate: after every attention and MLP.
    position_embedding: a kind of layers/pos_embed.py.
    dtype: compute dtype.
  """

  attention: Mapping[str, Any]
  depth: int = 6
  mlp_dim: int = 2048
  dropout_rate: float = 0.1
  position_embedding: str = "sincos"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train: bool, bias=None):
    """`bias` is added to the scores, broadcast to [b h n n]."""
    x = PositionEmbedding(self.position_embedding, name="position_embedding")(x)
    for layer in range(self.depth):
      x = EncoderLayer(self.attention, self.mlp_dim, self.dropout_rate, self.dtype, name=f"layer_{layer}")(
        x, train=train, bias=bias
      )
    return x


class Decoder(nn.Module):
  """Positions, layers, readout: x [b n c], memory [b m c] -> [b n num_outputs], or [b n c] with output="hidden".

  Attributes:
    attention: spec of an attention with a meaning in cross-attention.
    depth, mlp_dim, dropout_rate, position_embedding, dtype: as in Encoder.
    mask: "causal" (a token sees itself and those before it) or "none".
    output: "logits", "probs" (their softmax, as in the published code) or "hidden" (no readout).
    num_outputs: width of the readout; 0 = c.
  """

  attention: Mapping[str, Any]
  depth: int = 6
  mlp_dim: int = 2048
  dropout_rate: float = 0.1
  position_embedding: str = "sincos"
  mask: str = "causal"
  output: str = "logits"
  num_outputs: int = 0
  dtype: Any = None

  @nn.compact
  def __call__(self, x, memory, *, train: bool, memory_bias=None):
    """`memory_bias` is added to the scores of the memory, broadcast to [b h n m]."""
    if self.mask not in DECODER_MASKS:
      raise unknown_name("mask", self.mask, DECODER_MASKS)
    if self.output not in OUTPUTS:
      raise unknown_name("output", self.output, OUTPUTS)
    n, c = x.shape[1:]
    bias = hidden_bias(causal(n))[None, None] if self.mask == "causal" else None
    x = PositionEmbedding(self.position_embedding, name="position_embedding")(x)
    for layer in range(self.depth):
      x = DecoderLayer(self.attention, self.mlp_dim, self.dropout_rate, self.dtype, name=f"layer_{layer}")(
        x, memory, train=train, bias=bias, memory_bias=memory_bias
      )
    if self.output == "hidden":
      return x
    logits = dense(self.num_outputs or c, c, bias=True, name="head", dtype=self.dtype)(x)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jax.nn.softmax(logits, axis=-1) if self.output == "probs" else logits


class Transformer(nn.Module):
  """source [b m c], target [b n c] -> [b n num_outputs], or [b n c] with output="hidden".

  Attributes:
    attention: spec of an attention with a meaning in cross-attention, for all layers; by default 8 heads with biases
      and, as in the published code, no dropout on the weights.
    encoder_depth, decoder_depth: layers.
    mlp_dim, dropout_rate, position_embedding, mask, output, num_outputs, dtype: as in Encoder and Decoder.
  """

  attention: Mapping[str, Any] | None = None
  encoder_depth: int = 6
  decoder_depth: int = 6
  mlp_dim: int = 2048
  dropout_rate: float = 0.1
  position_embedding: str = "sincos"
  mask: str = "causal"
  output: str = "logits"
  num_outputs: int = 0
  dtype: Any = None

  def setup(self):
    for field in ("encoder_depth", "decoder_depth"):
      if getattr(self, field) < 1:
        raise UserError(f"{field}={getattr(self, field)} must be at least 1.")
    shared = dict(
      attention=self.attention or softmax_spec(8),
      mlp_dim=self.mlp_dim,
      dropout_rate=self.dropout_rate,
      position_embedding=self.position_embedding,
      dtype=self.dtype,
    )
    self.encoder = Encoder(depth=self.encoder_depth, **shared)
    self.decoder = Decoder(
      depth=self.decoder_depth,
      mask=self.mask,
      output=self.output,
      num_outputs=self.num_outputs,
      **shared,
    )

  def __call__(self, source, target, *, train: bool, source_mask=None):
    """`source_mask` bool [b m]: True = a token, False = padding that nobody sees."""
    return self.decode(target, self.encode(source, train=train, source_mask=source_mask), train, source_mask)

  def encode(self, source, *, train: bool = False, source_mask=None):
    """The memory [b m c] of a source; `decode` uses it for as many targets as are wanted."""
    return self.encoder(source, train=train, bias=_padding_bias(source_mask))

  def decode(self, target, memory, train: bool = False, source_mask=None):
    """Outputs for every position of the target."""
    return self.decoder(target, memory, train=train, memory_bias=_padding_bias(source_mask))


def softmax_spec(num_heads: int, head_dim: int = 0) -> dict[str, Any]:
  """The multi-head attention of the paper and of fkodom's code: biases, no dropout on the weights."""
  return dict(
    name="softmax", num_heads=num_heads, head_dim=head_dim, dropout_rate=0.0, qkv_bias=True, out_bias=True
  )


def _padding_bias(source_mask):
  """Bool [b m] -> bias [b 1 1 m]."""
  return None if source_mask is None else hidden_bias(source_mask)[:, None, None]

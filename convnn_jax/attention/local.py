"""Local attention: windows of tokens that see themselves and their neighbour windows, with rotary positions.

Source: local-attention (lucidrains), as used by the published ConvNN comparison. Along the raster order of the tokens,
class token first; not a two-dimensional window (see neighborhood for that).

Published accidents, as words in `quirks`:
  visible_padding  the zeros that fill up the last window take part in the softmax
  shifted_rotary   query positions are off by look_forward windows
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.attention.base import head_width, sow_padding
from convnn_jax.attention.core import attend, no_context, project_qkv
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.layers.dense import dense, merge_dense
from convnn_jax.layers.norm import layer_norm
from convnn_jax.ops import masks
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.rotary import rotate
from convnn_jax.ops.similarity import similarity

QUIRKS = ("visible_padding", "shifted_rotary")
QK_NORMS = ("none", "l2", "key", "l2_key")
REACHES = ("exact", "windows")
POSITIONS = ("rotary", "none")
# The score of a token against itself with qk_norm="key": it sees itself only when it sees nothing else.
_ITSELF = -5e4


class LocalAttention(nn.Module):
  """x [b n c] -> [b n c]. A token that sees nothing (because of `bias`) gets a mixture of zero.

  Attributes:
    num_heads: h.
    head_dim: d, whatever the width is; 0 = c / h.
    window_size: tokens of a window.
    look_backward, look_forward: windows seen before and after a token's own.
    reach: "exact" (at most window_size * look_... tokens away) or "windows" (all tokens of the windows).
    causal: True sees no later token; needs look_forward=0.
    positions: "rotary" or "none".
    qk_norm: "none", "l2" (unit queries and keys with learned channel scales, times 8), "key" (unit keys, and a token
      sees itself only when it sees nothing else; the source calls it shared_qk) or "l2_key" (the one, then the other).
    scale: factor of the scores; 0 = d ** -0.5, or 8 with qk_norm="l2" or "l2_key".
    gate: True multiplies each head by sigmoid of a linear map of the input.
    prenorm: True puts a LayerNorm in front.
    dropout_rate: on the attention weights.
    quirks: see the top of this file.
    dtype: compute dtype; scores and softmax stay float32.
  """

  num_heads: int = 3
  head_dim: int = 64
  window_size: int = 128
  look_backward: int = 1
  look_forward: int = 1
  reach: str = "exact"
  causal: bool = False
  positions: str = "rotary"
  qk_norm: str = "none"
  scale: float = 0.0
  gate: bool = False
  prenorm: bool = False
  dropout_rate: float = 0.1
  quirks: tuple[str, ...] = ()
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; has no `context`."""
    del grid
    no_context("local", context)
    if self.qk_norm not in QK_NORMS:
      raise unknown_name("qk_norm", self.qk_norm, QK_NORMS)
    c, h = x.shape[-1], self.num_heads
    d = head_width(c, h, self.head_dim)
    if self.prenorm:
      x = layer_norm("norm", self.dtype)(x)
    query, key, value = project_qkv(self, x, x, d, bias=False)
    scaled = self.qk_norm in ("l2", "l2_key")
    if scaled:
      query, key = (self._scaled(y, name) for y, name in ((query, "query_scale"), (key, "key_scale")))

    scores = local_scores(
      query,
      key,
      bias,
      window_size=self.window_size,
      look_backward=self.look_backward,
      look_forward=self.look_forward,
      reach=self.reach,
      causal=self.causal,
      positions=self.positions,
      unit_keys=self.qk_norm in ("key", "l2_key"),
      scale=self.scale or (8.0 if scaled else d**-0.5),
      quirks=self.quirks,
    )
    out = attend(self, scores, pad_tokens(value, scores.shape[-1]), train=train)
    sow_padding(self, scores.shape[-1] - x.shape[1])
    sees_something = jnp.max(scores, axis=-1) > masks.HIDDEN / 2  # [b h n]
    out = jnp.where(jnp.swapaxes(sees_something, 1, 2)[..., None], out, inside(out, 0))
    if self.gate:
      gates = dense(h, c, bias=True, name="gate_layer", dtype=self.dtype)(x)
      out = out * jax.nn.sigmoid(gates)[..., None]
    return merge_dense(c, h * d, bias=False, name="out", dtype=self.dtype)(out)

  def _scaled(self, heads, name):
    """Unit vectors times a learned scale per channel."""
    scale = self.param(name, nn.initializers.ones, (heads.shape[-1],), jnp.float32)
    return (_unit(heads) * scale[None, None, None]).astype(heads.dtype)


def _unit(heads):
  """x / max(|x|, 1e-12) in float32 or wider, with a finite gradient at x = 0."""
  wide = heads.astype(jnp.promote_types(heads.dtype, jnp.float32))
  return wide * jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24))


def pad_tokens(heads, num_tokens):
  """[b n h d] -> [b num_tokens h d], zeros behind."""
  return jnp.pad(heads, ((0, 0), (0, num_tokens - heads.shape[1]), (0, 0), (0, 0)))


def local_scores(
  query,
  key,
  bias=None,
  *,
  window_size: int,
  scale: float,
  look_backward: int = 1,
  look_forward: int = 1,
  reach: str = "exact",
  causal: bool = False,
  positions: str = "rotary",
  unit_keys: bool = False,
  quirks: tuple[str, ...] = (),
):
  """Scores before the softmax, hidden pairs included.

  Args:
    query: [b n h d].
    key: [b n h d].
    bias: broadcast to [b h n n].
    unit_keys: see qk_norm="key" of LocalAttention, as for the other words.

  Returns:
    [b h n m]; m = n, or with the quirk "visible_padding" rounded up to whole windows.

  Raises:
    UserError: a value outside the rules.
  """
  for quirk in quirks:
    if quirk not in QUIRKS:
      raise unknown_name("quirk", quirk, QUIRKS)
  for field, value, words in (("reach", reach, REACHES), ("positions", positions, POSITIONS)):
    if value not in words:
      raise unknown_name(field, value, words)
  n, d = query.shape[1], query.shape[-1]
  if window_size < 1 or look_backward < 0 or look_forward < 0:
    raise UserError(
      f"window_size={window_size} must be at least 1, look_backward={look_backward} and"
      f" look_forward={look_forward} at least 0."
    )
  if causal and look_forward:
    raise UserError(f"causal=True needs look_forward=0, not {look_forward}.")
  if positions == "rotary" and d % 2:
    raise UserError(f"head_dim={d} must be even for positions='rotary'; choose another or positions='none'.")

  padded = -(-n // window_size) * window_size if "visible_padding" in quirks else n
  if unit_keys:
    key = _unit(key).astype(key.dtype)
  key = pad_tokens(key, padded)
  if positions == "rotary":
    shift = window_size * look_forward if "shifted_rotary" in quirks else 0
    query, key = rotate(query, jnp.arange(n) + shift), rotate(key, jnp.arange(padded))
  scores = similarity(query, key, kind="dot", scale=scale)  # [b h n padded]
  if unit_keys:
    scores = jnp.where(jnp.eye(n, padded, dtype=bool)[None, None], _ITSELF, scores)
  mask = masks.local_windows(
    padded, window_size, backward=look_backward, forward=look_forward, exact=reach == "exact", causal=causal
  )
  scores = scores + masks.hidden_bias(mask[:n], scores.dtype)[None, None]
  if bias is None:
    return scores
  bias = jnp.broadcast_to(bias, (*scores.shape[:-1], n))
  return scores + jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (0, padded - n)))

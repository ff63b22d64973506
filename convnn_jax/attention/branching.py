"""Two attentions side by side on a split of the channels, then a linear layer that mixes them.

Source: the published ConvNN code, whose BranchingConv and BranchingAttention are `first=convnn` with
`second=conv1d` and `second=softmax`; here any two registered attentions.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict

from convnn_jax.attention import make_attention
from convnn_jax.attention.base import sow_padding, wants_weights
from convnn_jax.errors import UserError
from convnn_jax.layers.dense import dense


class BranchingAttention(nn.Module):
  """x [b n c] -> [b n c].

  Channels [0, ratio c) go to `first`, the others to `second`. With ratio 0 or 1 only one of them exists, on all
  channels, and there is nothing to mix.

  Attributes:
    first: spec of the attention on the first channels; as published: ConvNN and softmax, of one head.
    second: spec of the attention on the others.
    ratio: share of the first, in [0, 1]; ratio * c is cut to a whole number.
    dtype: compute dtype.
  """

  first: Mapping[str, Any] = FrozenDict(name="convnn", num_heads=1)
  second: Mapping[str, Any] = FrozenDict(name="softmax", num_heads=1)
  ratio: float = 0.5
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; `context`, `bias` and `grid` go to both."""
    if not 0 <= self.ratio <= 1:
      raise UserError(f"ratio={self.ratio} must lie in [0, 1].")
    for field in ("first", "second"):
      if not isinstance(getattr(self, field), Mapping):
        raise UserError(
          f"{field}={getattr(self, field)!r} must be the spec of an attention: dict(name=..., ...)."
        )
    c = x.shape[-1]
    split = int(self.ratio * c)
    options = dict(train=train, bias=bias, grid=grid)

    def branch(name, spec, begin, end):
      module = make_attention(spec, dtype=self.dtype, name=name)
      there = None if context is None else context[..., begin:end]
      return module, module(x[..., begin:end], context=there, **options)

    parts = [("first", self.first, 0, split), ("second", self.second, split, c)]
    ran = [branch(*part) for part in parts if part[2] < part[3]]
    if wants_weights(self):
      weights = _all_heads([module for module, _ in ran])
      self.sow("intermediates", "attention_weights", weights)
      sow_padding(self, weights.shape[-1] - (x if context is None else context).shape[1])
    out = jnp.concatenate([result for _, result in ran], axis=-1)
    return out if len(ran) == 1 else dense(c, c, bias=True, name="mix", dtype=self.dtype)(out)


def _all_heads(modules):
  """The branches' weights [b h n m], heads of the first, then of the second; padding of one is 0 in the other."""
  sown = [module.get_variable("intermediates", "attention_weights")[-1] for module in modules]
  most = max(weights.shape[-1] for weights in sown)
  padded = lambda weights: jnp.pad(weights, ((0, 0), (0, 0), (0, 0), (0, most - weights.shape[-1])))
  return jnp.concatenate([padded(weights.astype(jnp.float32)) for weights in sown], axis=1)

"""What the dense attentions share: tokens to queries, keys and values; scores to result."""

import jax
import jax.numpy as jnp

from convnn_jax.attention.base import wants_weights
from convnn_jax.errors import UserError
from convnn_jax.layers.dense import split_dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.ops.products import mix_softmax, mix_values


def attend(module, scores, value, *, train: bool, dropout_rate: float | None = None):
  """softmax(scores) v, with dropout on the weights; sows scores and weights.

  Args:
    module: the attention, a linen module in a compact call.
    scores: [b h n m], biases and masks added, float32.
    value: [b m h d].
    train: whether dropout is on.
    dropout_rate: None = the module's.

  Returns:
    [b n h d].
  """
  if not (train or wants_weights(module)):
    return mix_softmax(scores, value)
  module.sow("intermediates", "attention_scores", scores)
  return mix(module, _softmax(scores), value, train=train, dropout_rate=dropout_rate)


def _softmax(scores):
  """Softmax of rows. A batch or heads of one stand aside.

  Beside an axis of one XLA's CPU backend takes four times as long for the gradient (jax 0.10.2, docs/speed.md).
  """
  single = tuple(axis for axis in (0, 1) if scores.shape[axis] == 1)
  return jnp.expand_dims(jax.nn.softmax(jnp.squeeze(scores, single), axis=-1), single)


def mix(module, weights, value, *, train: bool, dropout_rate: float | None = None):
  """The second half of `attend`, for weights [b h n m] that are no softmax: dropout, then weights times values."""
  module.sow("intermediates", "attention_weights", weights)
  rate = module.dropout_rate if dropout_rate is None else dropout_rate
  weights = Dropout(rate)(weights.astype(value.dtype), deterministic=not train)
  return mix_values(weights, value)


def project_qkv(module, x, source, head_dim: int, *, bias: bool, value_source=None):
  """Query of x [b n c], key and value of source [b m c]: three of [b . h d].

  Args:
    module: the attention, a linen module in a compact call; its `num_heads`, `dtype` and, if it has one,
      `linear_init` count.
    x: tokens that ask.
    source: tokens that answer: x itself, or the context.
    head_dim: d.
    bias: whether the projections have one.
    value_source: where the values come from, if not from `source`.
  """
  tokens = dict(query=x, key=source, value=source if value_source is None else value_source)
  init = getattr(module, "linear_init", "uniform")
  heads = split_dense(tokens, module.num_heads, head_dim, bias=bias, dtype=module.dtype, init=init)
  return heads["query"], heads["key"], heads["value"]


def no_context(name: str, context) -> None:
  """For attentions whose pattern is one of positions in a single sequence.

  Raises:
    UserError: a context was given.
  """
  if context is not None:
    raise UserError(
      f"{name} attention relates positions of one sequence and has no meaning in cross-attention; use softmax,"
      " knn or convnn there."
    )

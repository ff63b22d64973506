"""What the dense attentions share: scores to result."""

import jax
import jax.numpy as jnp

from convnn_jax.errors import UserError
from convnn_jax.layers.dropout import Dropout


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
  weights = jax.nn.softmax(scores, axis=-1)
  module.sow("intermediates", "attention_scores", scores)
  module.sow("intermediates", "attention_weights", weights)
  rate = module.dropout_rate if dropout_rate is None else dropout_rate
  weights = Dropout(rate)(weights.astype(value.dtype), deterministic=not train)
  return jnp.einsum("bhnm,bmhd->bnhd", weights, value)


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

"""Losses per example, in float32."""

import jax
import jax.numpy as jnp
import optax

from convnn_jax.errors import UserError, choose, is_known


def cross_entropy(logits, targets):
  """-sum_j targets_j log softmax(logits)_j: [b c], [b c] -> [b]."""
  return optax.softmax_cross_entropy(logits, targets)


def mse(logits, targets):
  """Mean over classes of (logits - targets)^2: [b c], [b c] -> [b]."""
  return jnp.mean((logits - targets) ** 2, axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "mse": mse}


def make_loss(config):
  """The training loss of config.loss: (logits [b c], targets, label_smoothing) -> [b].

  Targets are labels int [b] or each class's share float [b c]; the two agree for whole shares.

  Raises:
    UserError: unknown name, or label_smoothing outside [0, 1).
  """
  loss = choose("loss", config.name, LOSSES)
  if is_known(config.label_smoothing) and not 0 <= config.label_smoothing < 1:
    raise UserError(f"loss.label_smoothing={config.label_smoothing} must lie in [0, 1).")

  def per_example(logits, targets, *, label_smoothing=0.0):
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if targets.ndim == 1:
      targets = jax.nn.one_hot(targets, logits.shape[-1])
    targets = targets.astype(logits.dtype)
    return loss(logits, optax.smooth_labels(targets, label_smoothing))

  return per_example


def top_k_correct(logits, labels, k: int):
  """1.0 where the label is among the k largest logits, else 0.0: [b c], [b] -> [b].

  Among equal logits the lower class number comes first, as argmax has it; a NaN is never correct.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  earlier = jnp.arange(logits.shape[-1])[None] < labels[:, None]
  ahead = ~(logits <= own) | ((logits == own) & earlier)  # ~(<=) holds for NaN too
  return (jnp.sum(ahead, axis=-1) < k).astype(jnp.float32)


def share_correct(logits, targets):
  """The targets' share of the class with the largest logit: [b c], [b c] -> [b].

  For whole shares this is `top_k_correct` with k = 1; with mixed labels it is what the mixture would count.
  """
  predicted = jnp.argmax(logits, axis=-1, keepdims=True)
  share = jnp.take_along_axis(targets, predicted, axis=-1)[:, 0]
  return jnp.where(jnp.isnan(logits).any(axis=-1), 0.0, share).astype(jnp.float32)

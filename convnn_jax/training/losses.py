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
  """The training loss of config.loss: (logits [b c], labels [b], label_smoothing) -> [b].

  Raises:
    UserError: unknown name, or label_smoothing outside [0, 1).
  """
  loss = choose("loss", config.name, LOSSES)
  if is_known(config.label_smoothing) and not 0 <= config.label_smoothing < 1:
    raise UserError(f"loss.label_smoothing={config.label_smoothing} must lie in [0, 1).")

  def per_example(logits, labels, *, label_smoothing=0.0):
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
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

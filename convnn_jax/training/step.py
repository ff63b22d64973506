"""One training step and one evaluation step, as pure functions."""

import jax
import jax.numpy as jnp
import optax

from convnn_jax import data
from convnn_jax.training.losses import make_loss, share_correct, top_k_correct
from convnn_jax.training.state import TrainState

# One stream of random numbers per purpose; the numbers fix the streams, so do not renumber.
_STREAMS = {"augment": 0, "dropout": 1, "drop_path": 2, "candidates": 3}


def step_rngs(seed: int, step) -> dict[str, jax.Array]:
  """The keys of step `step` (0-based), a pure function of (seed, step)."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return {name: jax.random.fold_in(key, number) for name, number in _STREAMS.items()}


def make_train_step(model, optimizer, schedule, config, info):
  """Returns update(state, resident, batch) -> (state, metrics).

  `resident` and `batch` come from convnn_jax.data. Metrics are float32 scalars: loss, top1, grad_norm,
  learning_rate, skipped, skipped_in_a_row. An update whose loss or gradient is not finite is left out and
  counted; the step number goes on. With mixed labels top1 counts the label's share of the predicted class.
  """
  per_example = make_loss(config.loss)
  parts = config.optimizer.accumulate
  mixed_steps = round(config.data.mix_epochs * (info.num_train // config.batch_size))  # 0 = all

  def loss_of_part(params, collections, images, labels, rngs, step):
    mixing = step < mixed_steps if mixed_steps else True
    images, targets = data.augment_batch(images, labels, rngs["augment"], config.data, info, mixing)
    logits, updated = model.apply(
      {"params": params, **collections}, images, train=True, rngs=rngs, mutable=list(collections)
    )
    losses = per_example(logits, targets, label_smoothing=config.loss.label_smoothing)
    return jnp.mean(losses), (jnp.mean(share_correct(logits, targets)), updated)

  gradient = jax.value_and_grad(loss_of_part, has_aux=True)

  def loss_and_gradient(state, resident, batch, rngs):
    if parts == 1:
      return gradient(state.params, state.collections, *data.fetch(resident, batch), rngs, state.step)
    # Row i of the batch goes to part i % parts: the rows of a device stay on it.
    split = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch)

    def add_part(total, numbered_part):
      number, part = numbered_part
      part_rngs = {name: jax.random.fold_in(key, number) for name, key in rngs.items()}
      (loss, (top1, collections)), grads = gradient(
        state.params, total[3], *data.fetch(resident, part), part_rngs, state.step
      )
      sums = jax.tree.map(jnp.add, total[:3], (loss, top1, grads))
      return (*sums, collections), None

    zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
    sums, _ = jax.lax.scan(add_part, (*zero, state.collections), (jnp.arange(parts), split))
    loss, top1, grads = jax.tree.map(lambda x: x / parts, sums[:3])
    return (loss, (top1, sums[3])), grads

  def update(state: TrainState, resident, batch):
    rngs = step_rngs(config.seed, state.step)
    (loss, (top1, collections)), grads = loss_and_gradient(state, resident, batch, rngs)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    decay = config.optimizer.ema_decay

    def renew(params, opt_state, ema, old_collections):
      del old_collections
      updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
      params = optax.apply_updates(params, updates)
      ema = optax.incremental_update(params, ema, 1 - decay) if decay else ()
      return params, opt_state, ema, collections

    kept = (state.params, state.opt_state, state.ema, state.collections)
    params, opt_state, ema, collections = _only_if(finite, renew, *kept)
    state = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      collections=collections,
      ema=ema,
      skipped=state.skipped + ~finite,
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return state, {
      "loss": loss,
      "top1": top1,
      "grad_norm": grad_norm,
      "learning_rate": jnp.asarray(schedule(state.step - 1), jnp.float32),
      "skipped": state.skipped,
      "skipped_in_a_row": state.skipped_in_a_row,
    }

  return update


def _only_if(condition, renew, *old):
  """renew(*old) if the condition holds, else old: trees of the same shapes."""
  if jax.default_backend() == "cpu":
    # A function of its own shares one kernel between parameters of one shape, where a kernel that is fused with what
    # comes before is compiled for each of them (docs/speed.md).
    return jax.lax.cond(condition, renew, lambda *old: old, *old)
  # Accelerators would wait for the host to read the condition.
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), renew(*old), old)


def make_eval_step(model, config, info):
  """Returns evaluate(variables, resident, batch) -> dict of [b] arrays: loss, top1, top5, mask.

  Values of single examples: their sum is taken on the host in float64 and in the order of the examples, so it
  does not depend on how they were spread over devices.
  """
  per_example = make_loss(config.loss)

  def evaluate(variables, resident, batch):
    images, labels = data.fetch(resident, batch)
    images = data.normalise(images, config.data, info)
    # One fixed draw of random candidates: evaluation is deterministic.
    logits = model.apply(variables, images, train=False)
    return {
      "loss": per_example(logits, labels),
      "top1": top_k_correct(logits, labels, 1),
      "top5": top_k_correct(logits, labels, 5),
      "mask": batch["mask"],
    }

  return evaluate

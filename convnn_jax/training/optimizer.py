"""config.optimizer -> an optax chain."""

import jax
import optax

from convnn_jax.errors import UserError, choose, is_known, unknown_name


def _constant(config, steps_per_epoch, decay_steps):
  return optax.constant_schedule(config.learning_rate)


def _cosine(config, steps_per_epoch, decay_steps):
  if is_known(config.learning_rate) and config.final_learning_rate > config.learning_rate:
    raise UserError(
      f"optimizer.final_learning_rate={config.final_learning_rate} must be at most"
      f" learning_rate={config.learning_rate}."
    )
  final = config.final_learning_rate / config.learning_rate
  return optax.cosine_decay_schedule(config.learning_rate, max(decay_steps, 1), alpha=final)


def _step(config, steps_per_epoch, decay_steps):
  every = max(round(config.decay_every * steps_per_epoch), 1)
  return optax.exponential_decay(config.learning_rate, every, config.decay_factor, staircase=True)


# `plateau` keeps the rate constant here; make_optimizer adds the part that watches the loss.
SCHEDULES = {"constant": _constant, "cosine": _cosine, "step": _step, "plateau": _constant}


def make_schedule(config, steps_per_epoch: int, num_steps: int):
  """Learning rate as a function of the step (0-based), linear warm-up first.

  Raises:
    UserError: unknown schedule, or numbers outside their range.
  """
  schedule = choose("optimizer.schedule", config.schedule, SCHEDULES)
  for field in ("learning_rate", "decay_every", "decay_factor"):
    if is_known(config[field]) and config[field] <= 0:
      raise UserError(f"optimizer.{field}={config[field]} must be larger than 0.")
  if config.warmup_epochs < 0:
    raise UserError(f"optimizer.warmup_epochs={config.warmup_epochs} must be at least 0.")
  warmup = round(config.warmup_epochs * steps_per_epoch)
  if warmup >= num_steps > 0 and warmup:
    raise UserError(
      f"optimizer.warmup_epochs={config.warmup_epochs} is {warmup} steps, but the whole run has {num_steps}; set"
      " --config.optimizer.warmup_epochs=0 or a larger --config.num_epochs."
    )
  main = schedule(config, steps_per_epoch, num_steps - warmup)
  if not warmup:
    return main
  # Starts at 1/warmup of the peak, not at 0: the first step should learn too.
  ramp = optax.linear_schedule(config.learning_rate / warmup, config.learning_rate, warmup - 1)
  return optax.join_schedules([ramp, main], [warmup])


def _decay_mask(config):
  if config.decay == "all":
    return None
  if config.decay == "kernels":
    return lambda params: jax.tree_util.tree_map_with_path(
      lambda path, leaf: path[-1].key == "kernel" and leaf.ndim > 1, params
    )
  raise unknown_name("optimizer.decay", config.decay, ("all", "kernels"))


def _adamw(config, schedule, mask):
  return optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask)


def _adam(config, schedule, mask):
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  return optax.chain(decay, optax.adam(schedule, config.b1, config.b2))


def _sgd(config, schedule, mask):
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  return optax.chain(decay, optax.sgd(schedule, momentum=config.momentum or None))


OPTIMIZERS = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def make_optimizer(config, steps_per_epoch: int, num_steps: int):
  """Returns (optax transformation, schedule). Its update takes `value=loss` as extra argument.

  Order: clip the global gradient norm, optimiser with decay, then for schedule="plateau" a factor that drops
  when an epoch's mean training loss has not improved for `decay_every` epochs (never the test set's).

  Raises:
    UserError: unknown name or number outside its range.
  """
  build = choose("optimizer", config.name, OPTIMIZERS)
  schedule = make_schedule(config, steps_per_epoch, num_steps)
  for field in ("weight_decay", "clip_norm", "final_learning_rate"):
    if is_known(config[field]) and config[field] < 0:
      raise UserError(f"optimizer.{field}={config[field]} must be at least 0.")
  for field in ("ema_decay", "momentum", "b1", "b2"):
    if not 0 <= config[field] < 1:
      raise UserError(f"optimizer.{field}={config[field]} must lie in [0, 1).")
  parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  parts.append(build(config, schedule, _decay_mask(config)))
  if config.schedule == "plateau":
    if not 0 < config.decay_factor < 1:
      raise UserError(f"optimizer.decay_factor={config.decay_factor} must lie in (0, 1) for a plateau.")
    parts.append(
      optax.contrib.reduce_on_plateau(
        factor=config.decay_factor,
        patience=max(round(config.decay_every), 1),
        accumulation_size=steps_per_epoch,
      )
    )
  return optax.with_extra_args_support(optax.chain(*parts)), schedule

"""config.optimizer -> the learning rate as a function of the step.

A schedule counts ticks: steps, or epochs for a rate that is set once per epoch.
"""

import jax.numpy as jnp
import optax

from convnn_jax.errors import UserError, choose, is_known


def _constant(config, ticks_per_epoch, decay_ticks):
  return optax.constant_schedule(config.learning_rate)


def _cosine(config, ticks_per_epoch, decay_ticks):
  if is_known(config.learning_rate) and config.final_learning_rate > config.learning_rate:
    raise UserError(
      f"optimizer.final_learning_rate={config.final_learning_rate} must be at most"
      f" learning_rate={config.learning_rate}."
    )
  final = config.final_learning_rate / config.learning_rate
  return optax.cosine_decay_schedule(config.learning_rate, max(decay_ticks, 1), alpha=final)


def _step(config, ticks_per_epoch, decay_ticks):
  every = max(round(config.decay_every * ticks_per_epoch), 1)
  return optax.exponential_decay(config.learning_rate, every, config.decay_factor, staircase=True)


# `plateau` keeps the rate constant here; make_optimizer adds the part that watches the loss.
SCHEDULES = {"constant": _constant, "cosine": _cosine, "step": _step, "plateau": _constant}


def _linear(config, warmup):
  if config.warmup_learning_rate:
    return optax.linear_schedule(config.warmup_learning_rate, config.learning_rate, warmup)
  # Starts at 1/warmup of the peak, not at 0: the first step should learn too.
  return optax.linear_schedule(config.learning_rate / warmup, config.learning_rate, warmup - 1)


def _hyperbolic(config, warmup):
  """The peak divided by the ticks that are left: 1/5, 1/4, 1/3, 1/2, 1 of it for 5 ticks."""
  if config.warmup_learning_rate:
    raise UserError(
      f"optimizer.warmup_learning_rate={config.warmup_learning_rate} belongs to warmup='linear'; the hyperbolic one"
      " starts at the peak divided by its length. Set it to 0."
    )
  return lambda tick: config.learning_rate / jnp.maximum(warmup - tick, 1)


WARMUPS = {"linear": _linear, "hyperbolic": _hyperbolic}
UNITS = {
  "step": lambda steps_per_epoch: 1,
  "epoch": lambda steps_per_epoch: steps_per_epoch,
}  # steps per tick
DECAY_STARTS = {
  "warmup": lambda warmup: warmup,
  "start": lambda warmup: 0,
}  # tick at which decay starts counting


def make_schedule(config, steps_per_epoch: int, num_steps: int):
  """Learning rate as a function of the step (0-based), warm-up first.

  Raises:
    UserError: unknown word, or numbers outside their range.
  """
  schedule = choose("optimizer.schedule", config.schedule, SCHEDULES)
  warm = choose("optimizer.warmup", config.warmup, WARMUPS)
  tick = choose("optimizer.schedule_unit", config.schedule_unit, UNITS)(steps_per_epoch)
  decay_start = choose("optimizer.decay_from", config.decay_from, DECAY_STARTS)
  _check_numbers(config)
  warmup = round(config.warmup_epochs * (steps_per_epoch // tick))
  cooldown = round(config.cooldown_epochs * (steps_per_epoch // tick))
  ticks = num_steps // tick
  for field, length in (("warmup_epochs", warmup), ("cooldown_epochs", warmup + cooldown)):
    if length >= ticks > 0 and length:
      raise UserError(
        f"optimizer.{field}={config[field]} is {length} {config.schedule_unit}s"
        f"{'' if field == 'warmup_epochs' else ' with the warm-up'}, but the whole run has {ticks}; set"
        f" --config.optimizer.{field}=0 or a larger --config.num_epochs."
      )
  start = decay_start(warmup)
  main = schedule(config, steps_per_epoch // tick, ticks - start - cooldown)
  if warmup:
    ramp, decay = warm(config, warmup), main
    # join_schedules counts the second one from the boundary on.
    late = decay if start else lambda count: decay(count + warmup)
    main = optax.join_schedules([ramp, late], [warmup])
  if tick == 1:
    return main
  return lambda step: main(step // tick)


def scale_learning_rates(config, batch_size: int):
  """A copy of config.optimizer whose learning rates are those for `batch_size`: linear scaling."""
  if config.learning_rate_batch < 0:
    raise UserError(
      f"optimizer.learning_rate_batch={config.learning_rate_batch} must be at least 0; 0 does not scale."
    )
  scaled = config.copy_and_resolve_references()
  if config.learning_rate_batch:
    for field in ("learning_rate", "warmup_learning_rate", "final_learning_rate"):
      scaled[field] = config[field] * batch_size / config.learning_rate_batch
  return scaled


def _check_numbers(config):
  for field in ("learning_rate", "decay_every", "decay_factor"):
    if is_known(config[field]) and config[field] <= 0:
      raise UserError(f"optimizer.{field}={config[field]} must be larger than 0.")
  for field in ("warmup_epochs", "cooldown_epochs", "warmup_learning_rate"):
    if config[field] < 0:
      raise UserError(f"optimizer.{field}={config[field]} must be at least 0.")
  if is_known(config.learning_rate) and config.warmup_learning_rate > config.learning_rate:
    raise UserError(
      f"optimizer.warmup_learning_rate={config.warmup_learning_rate} must be at most"
      f" learning_rate={config.learning_rate}."
    )

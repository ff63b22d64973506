"""config.optimizer -> an optax chain."""

import functools
import re

import jax
import optax

from convnn_jax.errors import UserError, choose, is_known
from convnn_jax.training.schedule import make_schedule, scale_learning_rates


def _is_kernel(path, leaf):
  return path[-1] == "kernel" and leaf.ndim > 1


def _is_matrix(path, leaf):
  """Biases have two axes where they are per head, so their name decides."""
  return leaf.ndim > 1 and not path[-1].endswith("bias")


# Tables of positions and what makes them, and the temperature of cosine attention. A table of relative position
# *weights* decays.
_SWIN_FREE = re.compile(
  # Published names and ours: tables of positions, the MLPs that compute them, the temperature.
  r"absolute_pos|position_embedding|relative_(position_)?bias|cpb_mlp|cpw_mlp|rel_pos_weight_mlp|logit_scale"
)


def _swin(path, leaf):
  return _is_matrix(path, leaf) and not _SWIN_FREE.search("/".join(path))


# word -> (names on the path of a parameter, the parameter) -> whether it decays
DECAYS = {"all": lambda path, leaf: True, "kernels": _is_kernel, "matrices": _is_matrix, "swin": _swin}


def decay_mask(word, params):
  """Which parameters decay: a tree of bool like `params`. `word` is a key of DECAYS."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: DECAYS[word](tuple(entry.key for entry in path), leaf), params
  )


def _adamw(config, schedule, mask):
  return optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask)


def _adam(config, schedule, mask):
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  return optax.chain(decay, optax.adam(schedule, config.b1, config.b2))


def _sgd(config, schedule, mask):
  decay = optax.add_decayed_weights(config.weight_decay, mask)
  return optax.chain(decay, optax.sgd(schedule, momentum=config.momentum or None))


OPTIMIZERS = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def make_optimizer(config, steps_per_epoch: int, num_steps: int, batch_size: int = 0):
  """Returns (optax transformation, schedule). Its update takes `value=loss` as extra argument.

  Order: clip the global gradient norm, optimiser with decay, then for schedule="plateau" a factor that drops
  when an epoch's mean training loss has not improved for `decay_every` epochs (never the test set's).

  Args:
    config: config.optimizer.
    steps_per_epoch, num_steps: of the run.
    batch_size: of the run; matters only where the config's learning rates are given for some other.

  Raises:
    UserError: unknown name or number outside its range.
  """
  build = choose("optimizer", config.name, OPTIMIZERS)
  choose("optimizer.decay", config.decay, DECAYS)
  config = scale_learning_rates(config, batch_size)
  schedule = make_schedule(config, steps_per_epoch, num_steps)
  for field in ("weight_decay", "clip_norm", "final_learning_rate"):
    if is_known(config[field]) and config[field] < 0:
      raise UserError(f"optimizer.{field}={config[field]} must be at least 0.")
  for field in ("ema_decay", "momentum", "b1", "b2"):
    if not 0 <= config[field] < 1:
      raise UserError(f"optimizer.{field}={config[field]} must lie in [0, 1).")
  mask = None if config.decay == "all" else functools.partial(decay_mask, config.decay)
  parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  parts.append(build(config, schedule, mask))
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

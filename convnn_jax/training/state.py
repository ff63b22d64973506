"""Everything that changes during training."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class TrainState:
  """The state of a run after `step` updates.

  Random numbers are not in it: they are functions of (seed, step).
  """

  step: jax.Array  # int32, updates done, the skipped ones included
  params: Any
  opt_state: Any
  collections: Any  # other variables of the model, for example batch statistics
  ema: Any  # exponential mean of params; () when off
  skipped: jax.Array  # int32, updates that were not finite and left out
  skipped_in_a_row: jax.Array  # int32

  @classmethod
  def create(cls, model, optimizer, key, image_shape, ema_decay: float = 0.0) -> "TrainState":
    """Initial state; `image_shape` is [y x c] of one image."""
    variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    params = variables.pop("params")
    return cls(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer.init(params),
      collections=variables,
      # A copy: the step donates its input, and one buffer must not be donated twice.
      ema=jax.tree.map(jnp.copy, params) if ema_decay else (),
      skipped=jnp.zeros((), jnp.int32),
      skipped_in_a_row=jnp.zeros((), jnp.int32),
    )

  @property
  def evaluated_params(self):
    """The parameters that evaluation uses: the average if there is one."""
    return self.params if self.ema == () else self.ema

  def checkpoint_items(self) -> dict[str, Any]:
    """`params` alone is what evaluation restores; `rest` completes the state."""
    return {
      "params": {"params": self.evaluated_params, "collections": self.collections},
      "rest": {
        "step": self.step,
        "opt_state": self.opt_state,
        "skipped": self.skipped,
        "skipped_in_a_row": self.skipped_in_a_row,
        # With an average, `params` holds it and the raw parameters are here.
        "raw_params": () if self.ema == () else self.params,
      },
    }

  def with_checkpoint_items(self, items: dict[str, Any]) -> "TrainState":
    """The inverse of `checkpoint_items`; self gives the structure."""
    rest, saved = dict(items["rest"]), items["params"]
    raw = rest.pop("raw_params")
    averaged = self.ema != ()
    return self.replace(
      params=raw if averaged else saved["params"],
      ema=saved["params"] if averaged else (),
      collections=saved["collections"],
      **rest,
    )

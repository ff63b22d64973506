"""The test set, every example exactly once."""

import math
import time

import jax
import numpy as np

from convnn_jax import data
from convnn_jax.training import sharding
from convnn_jax.training.assemble import Pieces
from convnn_jax.training.metrics import rounded
from convnn_jax.training.step import make_eval_step


class Evaluator:
  """Evaluates variables on a split; compiled once."""

  def __init__(self, pieces: Pieces, config, split, resident):
    """Args: the run's pieces and config, the split, and what `data.resident` gave for it."""
    shards = sharding.batch_shards(pieces.mesh)
    wanted = min(config.eval_batch_size, len(split))
    self._batch_size = math.ceil(wanted / shards) * shards  # every device gets the same number
    self._sharding = sharding.batch_sharding(pieces.mesh)
    self._split, self._resident = split, resident
    step = make_eval_step(pieces.model, config, pieces.info)
    # Replicated outputs: each process can read all of them.
    self._step = jax.jit(step, out_shardings=sharding.replicated(pieces.mesh))

  def _batches(self):
    return data.eval_batches(self._split, batch_size=self._batch_size, sharding=self._sharding)

  def __call__(self, variables) -> dict[str, float]:
    """{"loss", "top1", "top5"}: means over the examples, fractions, rounded as everywhere."""
    # All batches are sent before the first result is awaited.
    results = [self._step(variables, self._resident, batch) for batch in self._batches()]
    results = jax.device_get(results)
    real = np.concatenate([r["mask"] for r in results]) > 0
    columns = {
      name: np.concatenate([r[name] for r in results])[real].astype(np.float64)
      for name in ("loss", "top1", "top5")
    }
    return rounded({name: float(values.mean()) for name, values in columns.items()})

  def images_per_second(self, variables) -> float:
    """Throughput of a pass over the split, compilation left out."""
    jax.block_until_ready(self._step(variables, self._resident, next(iter(self._batches()))))
    start = time.perf_counter()
    for batch in self._batches():
      result = self._step(variables, self._resident, batch)
    jax.block_until_ready(result)
    return len(self._split) / (time.perf_counter() - start)

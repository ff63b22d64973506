"""Several steps per call of the device: config.steps_per_call.

A call costs the host a tenth of a millisecond or so, which counts where a step takes a few. A chunk of steps ends early
where the run logs, evaluates, saves or ends, so that these happen at the same steps whatever the size of a chunk. Its
length is an argument of one compiled program, not a program for each length.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def plan(
  start: int, total: int, size: int, periods: Sequence[int], ends: Sequence[int] = ()
) -> Iterator[range]:
  """Ranges of at most `size` steps that lead from `start` to `total`; steps are counted from 1.

  Args:
    start: steps done.
    total: steps of the run.
    size: steps per call.
    periods: multiples of each of these are last steps of their range.
    ends: further such steps.
  """
  done = start
  while done < total:
    stops = [(done // period + 1) * period for period in periods] + [end for end in ends if end > done]
    last = min(done + size, total, *stops)
    yield range(done + 1, last + 1)
    done = last


def several(step: Callable) -> Callable:
  """step(state, resident, {"index": [b]}) -> (state, metrics), made one for chunks.

  The result takes {"index": [size b], "count": how many of these rows are steps}, and its metrics are arrays [size],
  of which the first `count` count.
  """
  step = jax.jit(step)  # traced once, for the shapes and for the loop

  def update(state, resident, chunk):
    take = lambda number: {"index": chunk["index"][number]}
    _, shapes = jax.eval_shape(step, state, resident, take(0))
    empty = jax.tree.map(lambda leaf: jnp.zeros(len(chunk["index"]), leaf.dtype), shapes)

    def turn(number, carry):
      state, metrics = carry
      state, new = step(state, resident, take(number))
      return state, jax.tree.map(lambda rows, row: rows.at[number].set(row), metrics, new)

    return jax.lax.fori_loop(0, chunk["count"], turn, (state, empty))

  return update


def by_step(window: Sequence[tuple[range, dict]]) -> list[dict]:
  """Metrics of chunks, still on the device -> of single steps, on the host."""
  rows = []
  for steps, metrics in jax.device_get(window):
    single = np.ndim(metrics["loss"]) == 0
    rows += [metrics] if single else [{name: x[i] for name, x in metrics.items()} for i in range(len(steps))]
  return rows

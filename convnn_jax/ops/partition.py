"""Functions of independent rows that every device runs on its own rows."""

from collections.abc import Callable

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning


def rowwise(function: Callable, rule: str, whole: tuple[str, ...]) -> Callable:
  """`function`, which the partitioner would otherwise collect all its arguments for on every device.

  Args:
    function: arrays -> a tuple of arrays; works with any number of leading axes.
    rule: dimensions of arguments and results by name, leading ones as "...": "... m -> ... k, ... k".
    whole: the names that must not be cut; all others may be.
  """
  local = custom_partitioning(lambda *arguments: function(*arguments))  # which needs no names of arguments

  def partition(mesh, arguments, results):
    shardings = lambda tree: jax.tree.map(lambda x: x.sharding, tree)
    return mesh, function, shardings(results), shardings(arguments)

  local.def_partition(partition, sharding_rule=rule, need_replication_factors=whole)

  @custom_vmap
  def run(*arguments):
    return local(*arguments)

  @run.def_vmap
  def _(size, batched, *arguments):
    arrays = (
      x if mapped else jax.numpy.broadcast_to(x, (size, *x.shape))
      for x, mapped in zip(arguments, batched, strict=True)
    )
    results = run(*arrays)
    return results, (True,) * len(results)

  return run

"""Batches as pure functions of (seed, step), placed on the devices that need them.

Small sets live on the device (`resident`) and a batch is only a list of row numbers; large sets are
decoded ahead in a background thread. `fetch` hides the difference from the training step.
"""

import functools
import itertools
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from convnn_jax.errors import UserError

PREFETCH = 2  # batches decoded ahead of the step that uses them


@functools.lru_cache(maxsize=4)
def epoch_order(seed, epoch, n):
  """The order of the n examples in one epoch: int32 [n], a seeded permutation (read-only)."""
  order = np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)
  order.setflags(write=False)  # it is shared by all callers
  return order


def batch_indices(seed, step, batch_size, n):
  """The examples of step `step` (0-based): int32 [batch_size].

  An epoch has n // batch_size steps and leaves out the rest of its permutation; every epoch leaves
  out others.
  """
  epoch, position = divmod(step, n // batch_size)
  start = position * batch_size
  return epoch_order(seed, epoch, n)[start : start + batch_size]


def train_batches(split, *, seed, batch_size, start_step, sharding):
  """Endless batches from step `start_step` on.

  Args:
    split: a MemorySplit or StreamSplit.
    seed: of the data order, an integer of at least 0.
    batch_size: b, over all devices of all processes.
    start_step: the first step, 0-based; a resumed run passes the number of steps it has done.
    sharding: NamedSharding of the batch axis. Each process prepares its own devices' rows only; the
      order over all processes never depends on how many there are.

  Returns:
    Generator of dicts of jax.Arrays: {"index": int32 [b]} for a memory split, {"image": uint8
    [b Y X 3], "label": int32 [b]} for a stream.

  Raises:
    UserError: the batch is larger than the split or does not divide over the devices, or the seed is
      negative.
  """
  n = len(split)
  _check_training(n, seed, batch_size, sharding)

  def make(step):
    index = batch_indices(seed, step, batch_size, n)
    if split.kind == "memory":
      return {"index": _place(index, sharding)}
    draws = None
    if split.crop == "random":
      draws = np.random.default_rng([seed, step, 1]).random((batch_size, 4))
    return _load(split, index, draws, sharding)

  steps = itertools.count(start_step)
  return _batches(split, make, steps)


def train_chunks(split, *, seed, batch_size, chunks, size, sharding):
  """The batches of several steps at a time, for a memory split.

  Args:
    split: a MemorySplit.
    seed, batch_size, sharding: as for `train_batches`.
    chunks: ranges of steps, 1-based, each of at most `size`.
    size: rows of the result.

  Returns:
    Generator of {"index": int32 [size b], "count": int32, the number of steps}; rows behind them are 0.
  """
  n = len(split)
  _check_training(n, seed, batch_size, sharding)
  by_row = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(None, *sharding.spec))
  everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())

  def make(steps):
    index = np.zeros((size, batch_size), np.int32)
    for row, step in enumerate(steps):
      index[row] = batch_indices(seed, step - 1, batch_size, n)
    return {"index": _place(index, by_row), "count": _place(np.asarray(len(steps), np.int32), everywhere)}

  return (make(steps) for steps in chunks)


def eval_batches(split, *, batch_size, sharding):
  """Every example exactly once, in stored order.

  Returns:
    Generator of the dicts of `train_batches`, each with "mask" float32 [b]: 1 for an example, 0
    for the rows that fill up the last batch.

  Raises:
    UserError: the batch does not divide over the devices.
  """
  n = len(split)
  _check_divides(batch_size, sharding)

  def make(start):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    mask = _place((index < n).astype(np.float32), sharding)
    index = np.where(index < n, index, 0).astype(np.int32)
    if split.kind == "memory":
      return {"index": _place(index, sharding), "mask": mask}
    return {**_load(split, index, None, sharding), "mask": mask}

  starts = range(0, n, batch_size)
  return _batches(split, make, starts)


def resident(split, sharding):
  """The whole memory split on every device: {"image": uint8 [n y x c], "label": int32 [n]}.

  Streams give {}. Of `sharding` only the mesh is used.
  """
  if split.kind != "memory":
    return {}
  everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return {"image": _place(split.images, everywhere), "label": _place(split.labels, everywhere)}


def fetch(resident, batch):
  """(images uint8 [b Y X c], labels int32 [b]) of a batch; pure, for use inside the jitted step."""
  if "index" not in batch:
    return batch["image"], batch["label"]
  rows = batch["index"]
  return tuple(resident[name].at[rows].get(mode="promise_in_bounds") for name in ("image", "label"))


def _check_training(n, seed, batch_size, sharding):
  if not 1 <= batch_size <= n:
    raise UserError(
      f"batch_size={batch_size} must lie in [1, {n}], the number of training images. "
      "Choose a smaller batch_size."
    )
  if seed < 0:
    raise UserError(f"seed={seed} must be at least 0.")
  _check_divides(batch_size, sharding)


def _check_divides(batch_size, sharding):
  try:
    sharding.shard_shape((batch_size,))
  except ValueError as error:
    raise UserError(
      f"batch_size={batch_size} does not divide over the mesh {dict(sharding.mesh.shape)} with the "
      f"batch axis laid out as {sharding.spec}. Choose a multiple of the number of its devices."
    ) from error


def _place(array, sharding):
  """A NumPy array that every process holds in full -> the global jax.Array."""
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _load(split, index, draws, sharding):
  """Decodes those rows of the batch that this process's devices hold; returns the global batch."""
  b = len(index)
  owned = sharding.addressable_devices_indices_map((b,)).values()
  rows = np.unique(np.concatenate([np.arange(b)[slices] for slices in owned]))
  images, labels = split.load(index[rows], None if draws is None else draws[rows])

  def place(local):
    def shard(slices):
      return local[np.searchsorted(rows, np.arange(b)[slices[0]])]

    return jax.make_array_from_callback((b, *local.shape[1:]), sharding, shard)

  return {"image": place(images), "label": place(labels)}


def _batches(split, make, items):
  """A generator of make(item); batches that must be decoded are made ahead."""
  return (make(item) for item in items) if split.kind == "memory" else _prefetch(make, items)


def _prefetch(make, items):
  """Yields make(item) in order while a background thread works PREFETCH items ahead."""
  with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
    ahead = deque()
    try:
      for item in items:
        ahead.append(pool.submit(make, item))
        if len(ahead) > PREFETCH:
          yield ahead.popleft().result()
      while ahead:
        yield ahead.popleft().result()
    finally:  # a caller that stops early waits for one batch at most
      for future in ahead:
        future.cancel()

"""Data sets: what they are, how batches come from them, what happens to pixels.

  info = data.info(config)                  # the facts; reads no data
  dataset = data.open_dataset(config)       # .info .train .test
  for batch in data.train_batches(dataset.train, seed=0, batch_size=256, start_step=0, ...):
    images, labels = data.fetch(resident, batch)               # inside the jitted step
    x, targets = data.augment_batch(images, labels, key, config, info)  # uint8 -> float32, ready to train

Step s is a pure function of (seed, s), whatever the number of processes, threads and devices.
"""

from convnn_jax.data.augment import MIXING, augment, augment_batch, normalise
from convnn_jax.data.datasets import DataInfo, Dataset, info, open_dataset
from convnn_jax.data.pipeline import (
  batch_indices,
  epoch_order,
  eval_batches,
  fetch,
  resident,
  train_batches,
  train_chunks,
)
from convnn_jax.data.splits import MemorySplit, StreamSplit

__all__ = [
  "DataInfo",
  "Dataset",
  "MIXING",
  "MemorySplit",
  "StreamSplit",
  "augment",
  "augment_batch",
  "batch_indices",
  "epoch_order",
  "eval_batches",
  "fetch",
  "info",
  "normalise",
  "open_dataset",
  "resident",
  "train_batches",
  "train_chunks",
]

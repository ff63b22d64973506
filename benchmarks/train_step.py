"""Cost of one optimiser step of several configs, side by side.

    python -m benchmarks.train_step                       # convnn k=9 against softmax, ViT-Tiny 224/16, batch 16
    python -m benchmarks.train_step --rounds=15 --config=configs/vit_softmax.py --config=configs/convnn_k9.py

One step of each config per round, interleaved, in one process; the first config is the yardstick. A step holds
augmentation, forward, backward and update, dropout on, on resident random images. Prints medians, minima, the ratio of
minima, temporary memory and compile time, and a last line of JSON.
"""

import argparse
import json
import time

import jax
import numpy as np

from benchmarks import measure
from convnn_jax.cli import keep_memory_on_cpu
from convnn_jax.training import config as config_lib
from convnn_jax.training import sharding
from convnn_jax.training.assemble import assemble
from convnn_jax.training.loop import make_update


class TrainStep:
  """A compiled update with its state and a batch.

  Attributes:
    config: the resolved config.
    num_params: trained values.
    temp_bytes, compile_seconds: as of measure.Compiled; tracing counts as compiling.
    copied_state: bytes of the new state that do not lie where the old one lay, over the bytes of the state.
  """

  def __init__(self, path: str, overrides=()):
    """Compiles the update of the config at `path`."""
    self.name = config_lib.name_of(path)
    self.config = config = config_lib.load(path, list(overrides))
    pieces = assemble(config)
    by_batch = sharding.batch_sharding(pieces.mesh)
    everywhere = sharding.replicated(pieces.mesh)
    rng = np.random.default_rng(0)
    shape = (config.batch_size, 32, 32, pieces.info.image_shape[-1])
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = rng.integers(0, pieces.info.num_classes, config.batch_size, dtype=np.int32)
    self._resident = jax.device_put({"image": images, "label": labels}, everywhere)
    self._batch = {"index": jax.device_put(np.arange(config.batch_size, dtype=np.int32), by_batch)}
    self._state = pieces.create_state()
    self.num_params = pieces.num_params
    begun = time.perf_counter()
    lowered = make_update(pieces, config).lower(self._state, self._resident, self._batch)
    self._update = lowered.compile()
    self.compile_seconds = time.perf_counter() - begun
    memory = self._update.memory_analysis()
    self.temp_bytes = memory.temp_size_in_bytes
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self._state))
    self.copied_state = (memory.output_size_in_bytes - memory.alias_size_in_bytes) / state_bytes

  def step(self) -> float:
    """One update, awaited: its seconds."""
    begun = time.perf_counter()
    self._state, metrics = self._update(self._state, self._resident, self._batch)
    jax.block_until_ready(metrics)
    return time.perf_counter() - begun

  def close(self) -> None:
    """Frees state and program."""
    self._state = self._update = self._resident = None


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--config", action="append", help="config files; the first is the yardstick")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=15)
  args, overrides = parser.parse_known_args()
  keep_memory_on_cpu()
  paths = args.config or ["configs/vit_softmax.py", "configs/convnn_k9.py"]
  contenders = {}
  for path in paths:
    contender = TrainStep(path, [f"--config.batch_size={args.batch}", *overrides])
    contenders[contender.name] = contender
  seconds = measure.interleave(contenders, args.rounds)
  measure.print_side_by_side(contenders, seconds)
  print(
    json.dumps({"batch": args.batch, **measure.side_by_side(contenders, seconds), **measure.environment()})
  )


if __name__ == "__main__":
  main()

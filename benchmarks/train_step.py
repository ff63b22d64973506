"""Cost of one optimiser step of several configs, side by side.

    python -m benchmarks.train_step                       # convnn k=9 against softmax, ViT-Tiny 224/16, batch 16
    python -m benchmarks.train_step --rounds=15 --config=configs/vit_softmax.py --config=configs/convnn_k9.py

One step of each config per round, interleaved, in one process; the first config is the yardstick. A step holds
augmentation, forward, backward and update, dropout on, on resident random images. Prints medians, minima, the ratio of
medians, temporary memory and compile time, and a last line of JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time

import jax
import numpy as np

from convnn_jax.training import config as config_lib
from convnn_jax.training import sharding, workdir
from convnn_jax.training.assemble import assemble
from convnn_jax.training.loop import make_update


class Contender:
  """A compiled update with its state and a batch."""

  def __init__(self, path: str, overrides: list[str]):
    """Compiles the update of the config at `path`."""
    self.name = config_lib.name_of(path)
    config = config_lib.load(path, overrides)
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
    start = time.perf_counter()
    lowered = make_update(pieces, config).lower(self._state, self._resident, self._batch)
    self._update = lowered.compile()
    self.compile_seconds = time.perf_counter() - start
    self.temp_bytes = self._update.memory_analysis().temp_size_in_bytes
    self.seconds: list[float] = []

  def step(self, count: bool) -> None:
    """One update, awaited; its time is noted if `count`."""
    start = time.perf_counter()
    self._state, metrics = self._update(self._state, self._resident, self._batch)
    jax.block_until_ready(metrics)
    if count:
      self.seconds.append(time.perf_counter() - start)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--config", action="append", help="config files; the first is the yardstick")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=15)
  args, overrides = parser.parse_known_args()
  paths = args.config or ["configs/vit_softmax.py", "configs/convnn_k9.py"]
  contenders = [Contender(path, [f"--config.batch_size={args.batch}", *overrides]) for path in paths]
  for number in range(args.rounds + 2):  # two rounds to warm up
    for contender in contenders:
      contender.step(count=number >= 2)

  medians = [statistics.median(c.seconds) for c in contenders]
  print(f"{'config':<24}{'median ms':>11}{'min ms':>9}{'ratio':>8}{'temp MB':>9}{'compile s':>11}")
  for contender, median in zip(contenders, medians, strict=True):
    print(
      f"{contender.name:<24}{1e3 * median:>11.1f}{1e3 * min(contender.seconds):>9.1f}{median / medians[0]:>8.2f}"
      f"{contender.temp_bytes / 1e6:>9.0f}{contender.compile_seconds:>11.1f}"
    )
  figures = {
    "ratios": {c.name: round(m / medians[0], 4) for c, m in zip(contenders, medians, strict=True)},
    "samples_ms": {c.name: [round(1e3 * s, 2) for s in c.seconds] for c in contenders},
    "temp_bytes": {c.name: c.temp_bytes for c in contenders},
    "batch": args.batch,
    "load_average": os.getloadavg()[0],
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    **workdir.environment(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  main()

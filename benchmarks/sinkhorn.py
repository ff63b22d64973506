"""Cost of self-optimal-transport attention against softmax attention, forward and backward, side by side.

    python -m benchmarks.sinkhorn                                  # 128 matrices of 64 x 64, 10 iterations
    python -m benchmarks.sinkhorn --tokens=196 --batch=8 --iterations=20

One forward and backward pass of each contender per round, interleaved, in one process, on the same tokens; softmax
attention is the yardstick. Prints medians, minima, the ratio of medians, temporary memory of the compiled program and
its ratio, and a last line of JSON.
"""

import argparse
import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp

from convnn_jax.attention import make_attention
from convnn_jax.training import workdir

SOT = dict(name="sot", variant="query_key")
CONTENDERS = {
  "softmax": dict(name="softmax"),
  "sot": SOT,
  "sot, log domain": SOT | dict(domain="log"),
  "sot, implicit": SOT | dict(gradient="implicit"),
}


class Contender:
  """A compiled forward and backward pass of one attention."""

  def __init__(self, name: str, spec: dict, x):
    """Compiles it for the tokens `x`."""
    attention = make_attention(spec | dict(dropout_rate=0.0))
    self.name = name
    self._inputs = (jax.jit(lambda k: attention.init(k, x, train=False))(jax.random.key(0)), x)
    value = lambda v, x: jnp.sum(jnp.sin(attention.apply(v, x, train=False)))
    self._run = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(*self._inputs).compile()
    self.temp_bytes = self._run.memory_analysis().temp_size_in_bytes
    self.seconds: list[float] = []

  def step(self, count: bool) -> None:
    """One pass, awaited; its time is noted if `count`."""
    start = time.perf_counter()
    jax.block_until_ready(self._run(*self._inputs))
    if count:
      self.seconds.append(time.perf_counter() - start)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--heads", type=int, default=2)
  parser.add_argument("--tokens", type=int, default=64)
  parser.add_argument("--width", type=int, default=128)
  parser.add_argument("--iterations", type=int, default=10)
  parser.add_argument("--regularization", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=25)
  args = parser.parse_args()
  x = jax.random.normal(jax.random.key(1), (args.batch, args.tokens, args.width))
  contenders = []
  for name, spec in CONTENDERS.items():
    own = {} if name == "softmax" else dict(iterations=args.iterations, regularization=args.regularization)
    contenders.append(Contender(name, spec | own | dict(num_heads=args.heads), x))
  for number in range(args.rounds + 3):  # three rounds to warm up
    for contender in contenders:
      contender.step(count=number >= 3)

  yardstick = contenders[0]
  medians = {c.name: statistics.median(c.seconds) for c in contenders}
  print(f"{'attention':<18}{'median ms':>11}{'min ms':>9}{'ratio':>8}{'temp MB':>9}{'ratio':>8}")
  for c in contenders:
    print(
      f"{c.name:<18}{1e3 * medians[c.name]:>11.2f}{1e3 * min(c.seconds):>9.2f}"
      f"{medians[c.name] / medians[yardstick.name]:>8.2f}{c.temp_bytes / 1e6:>9.1f}"
      f"{c.temp_bytes / yardstick.temp_bytes:>8.2f}"
    )
  figures = {
    "time_ratios": {name: round(m / medians[yardstick.name], 4) for name, m in medians.items()},
    "memory_ratios": {c.name: round(c.temp_bytes / yardstick.temp_bytes, 4) for c in contenders},
    "samples_ms": {c.name: [round(1e3 * s, 3) for s in c.seconds] for c in contenders},
    "temp_bytes": {c.name: c.temp_bytes for c in contenders},
    **vars(args),
    "load_average": os.getloadavg()[0],
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    **workdir.environment(),
  }
  print(json.dumps(figures))


if __name__ == "__main__":
  main()

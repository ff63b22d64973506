"""Time to compile a training step: as a loop or block by block, for one device or several.

    python -m benchmarks.compiling configs/convnn_k9.py 8    # seconds, on 8 simulated devices

Each step is compiled in a process of its own, without a cache of earlier programs: in turn, as everything is measured,
since a slow minute of the machine would otherwise hit one contender only.
"""

import functools
import os
import subprocess
import sys

from benchmarks.cases import Group, Ratio

SOFTMAX, CONVNN = "configs/vit_softmax.py", "configs/convnn_k9.py"
COMMON = ("--config.batch_size=16", "--config.model.attention.num_heads=3")
ROUNDS = 3


class Compilation:
  """A contender whose step is tracing and compiling."""

  def __init__(self, path: str, num_devices: int, *overrides: str):
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    self._environment = {
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": flags,
      "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    self._command = [
      sys.executable,
      "-m",
      "benchmarks.compiling",
      path,
      str(num_devices),
      *COMMON,
      *overrides,
    ]

  def step(self) -> float:
    """See measure.Contender; what the process needs to start is not counted."""
    done = subprocess.run(self._command, env=self._environment, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])

  def close(self) -> None:
    """See measure.Contender."""


def _build(path, num_devices, *overrides):
  return functools.partial(Compilation, path, num_devices, *overrides)


def _case(name, what, ours, peer, target):
  return Ratio(name, f"time to compile a training step, {what}", ours, peer, target)


UNROLLED = "--config.model.scan_layers=unrolled"
COMPILING = Group(
  "compiling",
  ("cpu",),
  {
    "convnn k=9": _build(CONVNN, 1),
    "convnn k=9, unrolled": _build(CONVNN, 1, UNROLLED),
    "softmax, unrolled": _build(SOFTMAX, 1, UNROLLED),
    "convnn k=9, 8 devices": _build(CONVNN, 8),
  },
  (
    _case("C11", "convnn k=9 as a loop / softmax unrolled", "convnn k=9", "softmax, unrolled", 0.8),
    _case("C11b", "convnn k=9 / softmax, both unrolled", "convnn k=9, unrolled", "softmax, unrolled", 1.8),
    _case("S4", "convnn k=9 on 8 simulated devices / on one", "convnn k=9, 8 devices", "convnn k=9", 1.6),
  ),
  rounds=ROUNDS,
)
GROUPS = (COMPILING,)


def main() -> None:
  """Compiles what the arguments say and prints the seconds."""
  import jax

  from benchmarks.train_step import TrainStep

  path, num_devices, *overrides = sys.argv[1:]
  if jax.device_count() != int(num_devices):
    raise RuntimeError(f"{jax.device_count()} devices, not {num_devices}: set XLA_FLAGS as Compilation does.")
  print(TrainStep(path, overrides).compile_seconds)


if __name__ == "__main__":
  main()

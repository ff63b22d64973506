"""Timing side by side: contenders, rounds, samples, and what is made of them.

Each round runs a step of every contender (several where they are short), so that whatever else the machine does meets
all of them. What counts is the smallest sample; median and spread stand beside it, and a contender whose median is more
than 1.5 times its minimum makes the run "noisy". Contenders that live in a process of their own stay alive and idle
while others run.
"""

import importlib.metadata
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from convnn_jax.training import workdir

WARM_UP = 2
MOST_ROUNDS = 49
# A sample is at least so long: the mean of several steps where one is shorter, as a few milliseconds vary more.
SAMPLE_SECONDS = 0.1
NOISY = 1.5
# Threads of other libraries wait in a loop for a while after their work; they shall be idle when the next one runs.
_PAUSE = 0.02


class Contender(Protocol):
  """Something whose step is timed."""

  def step(self) -> float:
    """One step, awaited: its seconds."""

  def close(self) -> None:
    """Frees what it holds."""


class Compiled:
  """A function compiled for its arguments.

  Attributes:
    temp_bytes: temporary memory of the program.
    trace_seconds, compile_seconds: what it took, without any cache.
    arguments: what it is called with.
  """

  def __init__(self, function: Callable, *arguments, donate: tuple[int, ...] = ()):
    self.arguments = arguments
    begun = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    self.trace_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    self.program = lowered.compile()
    self.compile_seconds = time.perf_counter() - begun
    self.temp_bytes = self.program.memory_analysis().temp_size_in_bytes

  def step(self) -> float:
    """See Contender."""
    begun = time.perf_counter()
    jax.block_until_ready(self.program(*self.arguments))
    return time.perf_counter() - begun

  def close(self) -> None:
    """Frees program and arguments."""
    self.program = self.arguments = None


def gradients(function: Callable, *arguments, cotangent_seed: int = 7) -> Compiled:
  """Forward and backward pass of `function` for all arguments, with a random cotangent."""
  shape = jax.eval_shape(function, *arguments)
  cotangent = jax.random.normal(jax.random.key(cotangent_seed), shape.shape, shape.dtype)

  def run(cotangent, *arguments):
    out, backward = jax.vjp(function, *arguments)
    return out, backward(cotangent)

  return Compiled(run, cotangent, *arguments)


class Worker:
  """A contender in a process of its own: `python -m MODULE ARGUMENTS`, which answers each line by its seconds."""

  def __init__(self, module: str, *arguments: str):
    command = [sys.executable, "-m", module, *arguments]
    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    self._answer()  # it is ready

  def step(self) -> float:
    """See Contender."""
    self._process.stdin.write("step\n")
    self._process.stdin.flush()
    return float(self._answer())

  def close(self) -> None:
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait(timeout=30)

  def _answer(self) -> str:
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"{self._process.args} ended with code {self._process.wait()}.")
    return line


def interleave(
  contenders: dict[str, Contender], rounds: int, enough: float = 0.0, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
  """Seconds of each contender's step in each round, after some rounds to warm up.

  Each round has an order of its own, the same in every run: what a step finds in the caches is up to the one before.

  Args:
    contenders: by name.
    rounds: how many at least.
    enough: with short steps rounds go on until these seconds are measured, or there are MOST_ROUNDS of them.
    warm_up: rounds that are not counted.
  """
  seconds = {name: [] for name in contenders}
  shuffle = random.Random(0)
  number, measured = -warm_up, 0.0
  while number < rounds or (number < MOST_ROUNDS and measured < enough):
    for name in shuffle.sample(list(contenders), len(contenders)):
      taken = _sample(contenders[name])
      time.sleep(_PAUSE)
      if number >= 0:
        seconds[name].append(sum(taken) / len(taken))
        measured += sum(taken)
    number += 1
  return seconds


def _sample(contender: Contender) -> list[float]:
  """Seconds of one step, or of as many as last SAMPLE_SECONDS together."""
  taken = [contender.step()]
  while sum(taken) < SAMPLE_SECONDS:
    taken.append(contender.step())
  return taken


def summary(seconds: Sequence[float]) -> dict:
  """Minimum, median, spread (largest over smallest) and whether the samples are too noisy to be used."""
  least, median = min(seconds), statistics.median(seconds)
  return {
    "min_ms": round(1e3 * least, 4),
    "median_ms": round(1e3 * median, 4),
    "spread": round(max(seconds) / least, 3),
    "noisy": median / least > NOISY,
  }


def environment() -> dict:
  """Machine, driver, versions (PyTorch's and transformers' where they are), threads, load and commit."""
  common = workdir.environment()
  return {
    "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    "processor": _processor(),
    "cores": os.cpu_count(),
    "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    "load_average": os.getloadavg()[0],
    "driver": _driver(),
    **common,
    "versions": common["versions"] | _versions_of_peers(),
  }


def _versions_of_peers() -> dict[str, str]:
  return {
    d.name: d.version for d in importlib.metadata.distributions() if d.name in ("torch", "transformers")
  }


def _processor() -> str:
  try:
    with open("/proc/cpuinfo") as lines:
      return re.search(r"model name\s*: (.*)", lines.read()).group(1)
  except (OSError, AttributeError):
    return platform.processor() or platform.machine()


def _driver() -> str:
  """Of an NVIDIA GPU, or ""."""
  if jax.default_backend() != "gpu":
    return ""
  command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
  try:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
  except (OSError, subprocess.SubprocessError, IndexError):
    return ""


def side_by_side(contenders: dict[str, Contender], seconds: dict[str, list[float]]) -> dict:
  """Ratios of minima to the first contender, samples and temporary bytes, for a line of JSON."""
  yardstick = min(next(iter(seconds.values())))
  return {
    "ratios": {name: round(min(s) / yardstick, 4) for name, s in seconds.items()},
    "samples_ms": {name: [round(1e3 * x, 3) for x in s] for name, s in seconds.items()},
    "temp_bytes": {name: contender.temp_bytes for name, contender in contenders.items()},
    "noisy": [name for name, s in seconds.items() if summary(s)["noisy"]],
  }


def print_side_by_side(contenders: dict[str, Contender], seconds: dict[str, list[float]]) -> None:
  """The same as a table, with compile times."""
  ratios = side_by_side(contenders, seconds)["ratios"]
  print(f"{'contender':<24}{'median ms':>11}{'min ms':>9}{'ratio':>8}{'temp MB':>9}{'compile s':>11}")
  for name, contender in contenders.items():
    figures = summary(seconds[name])
    print(
      f"{name:<24}{figures['median_ms']:>11.1f}{figures['min_ms']:>9.1f}{ratios[name]:>8.2f}"
      f"{contender.temp_bytes / 1e6:>9.1f}{contender.compile_seconds:>11.1f}"
    )

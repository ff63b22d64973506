"""Freed memory that stays with the process."""

import importlib.metadata
import importlib.util
import platform
import subprocess
import sys

import pytest

from convnn_jax.host_memory import only_cpus_compute

PROGRAM = """
import ctypes, resource, sys
from convnn_jax.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
  print(keep_freed_memory())
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
size = 256 * 2**20
faults = []
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = library.malloc(size)
  ctypes.memset(block, 1, size)
  library.free(block)
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def third_block(word):
  """What the program printed; last, the page faults of the third time that it takes 256 MB."""
  done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
  return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_a_block_taken_again_has_its_pages():
  said, faults = third_block("keep")
  assert said == "True"
  assert int(faults) < 100
  # Without it every page has to come anew; pages of 2 MB, if the system gives such, are at least 128.
  assert int(third_block("leave")[0]) >= 128


@pytest.mark.parametrize(("platforms", "cpus"), [("cpu", True), ("cuda", False), ("tpu,cpu", False)])
def test_platforms_that_are_named_decide(monkeypatch, platforms, cpus):
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  assert only_cpus_compute() == cpus


@pytest.mark.parametrize("plugins", [(), ("cuda12",)])
def test_plugins_for_accelerators_decide_otherwise(monkeypatch, plugins):
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: plugins)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert only_cpus_compute() == (not plugins)

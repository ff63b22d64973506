"""Freed memory that stays with the process."""

import importlib.metadata
import importlib.util
import pathlib
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
print(faults[0], faults[-1])
"""


def blocks(word):
  """What the program printed; last, the page faults of the first and the third time that it takes 256 MB."""
  done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
  return done.stdout.split()


glibc_only = pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)


@glibc_only
def test_a_block_taken_again_has_its_pages():
  said, _, faults = blocks("keep")
  assert said == "True"
  assert int(faults) < 100
  # Without it every page has to come anew; pages of 2 MB, if the system gives such, are at least 128.
  assert int(blocks("leave")[-1]) >= 128


def huge_pages_on_request():
  try:
    return "[never]" not in pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
  except OSError:
    return False


@glibc_only
@pytest.mark.skipif(not huge_pages_on_request(), reason="this system gives no pages of 2 MB")
def test_pages_are_large_where_the_system_gives_such():
  # 65,536 pages of 4 kB; a few of them stay where memory is scattered.
  assert int(blocks("keep")[1]) < 6_000


@glibc_only
def test_a_limit_on_addresses_leaves_pages_small():
  limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
  command = [sys.executable, "-c", limit + PROGRAM, "keep"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert done.stdout.split()[0] == "True"


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

"""Freed memory that stays with the process."""

import importlib.metadata
import importlib.util
import platform
import resource
import subprocess
import sys

import pytest

from convnn_jax import host_memory
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
flags, mapped = set(), False
for line in open("/proc/self/smaps"):
  if "-" in line.split()[0]:
    mapped = line.rstrip().endswith("[heap]")
  elif mapped and line.startswith("VmFlags"):
    flags |= set(line.split())
print("large" if "hg" in flags else "small")
"""


def blocks(word):
  """What the program printed: whether it could ask, the page faults of the third time that it takes 256 MB, and whether
  its heap may have large pages."""
  done = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
  return done.stdout.split()


glibc_only = pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are"
)


@glibc_only
def test_a_block_taken_again_has_its_pages():
  said, faults, _ = blocks("keep")
  assert said == "True"
  assert int(faults) < 100
  # Without it every page has to come anew; pages of 2 MB, if the system gives such, are at least 128.
  assert int(blocks("leave")[0]) >= 128


@glibc_only
@pytest.mark.skipif(not host_memory._may_ask_for_huge_pages(), reason="this system gives none on request")
def test_pages_may_be_large_where_the_system_gives_such():
  assert blocks("keep")[-1] == "large"
  assert blocks("leave")[-1] == "small"


@glibc_only
@pytest.mark.parametrize(
  ("huge_pages", "overcommit", "may"),
  [("always [madvise] never", "0", True), ("always madvise [never]", "0", False), ("[madvise]", "2", False)],
)
def test_the_system_is_asked_first(monkeypatch, tmp_path, huge_pages, overcommit, may):
  for name, text in (("_HUGE_PAGES_FILE", huge_pages), ("_OVERCOMMIT_FILE", overcommit)):
    (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(host_memory, name, tmp_path / name)
  for name in ("MALLOC_PERTURB_", "LD_PRELOAD", "GLIBC_TUNABLES"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
  assert host_memory._may_ask_for_huge_pages() == may
  with monkeypatch.context() as changed:
    changed.setenv("LD_PRELOAD", "another_malloc.so")
    assert not host_memory._may_ask_for_huge_pages()
  monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**33, 2**34))
  assert not host_memory._may_ask_for_huge_pages()


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

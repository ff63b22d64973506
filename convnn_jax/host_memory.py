"""Keeps memory that a CPU's programs free, for the next step to find again."""

import ctypes
import importlib.metadata
import importlib.util
import os

# Options of mallopt(3), glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
  """Asks the C library to keep what is freed; returns whether it could be asked.

  XLA takes the temporary memory of a program anew at each call. glibc gives blocks of that size back to the system at
  once, and the next call pays for every page again: 336,000 page faults in a step of Swin-T, a seventh of its time
  (docs/speed.md). The process holds on to its largest demand until it ends. To be called before the first computation:
  threads that have got a pool of their own by then go on as before. Nothing happens with other C libraries.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError, TypeError):
    return False
  options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))  # -1: never
  taken = [mallopt(option, value) for option, value in options]
  return all(taken)


def only_cpus_compute() -> bool:
  """Whether JAX will run on CPUs, found out without starting it: none of its plugins for accelerators is installed,
  or JAX_PLATFORMS says "cpu"."""
  if os.environ.get("JAX_PLATFORMS"):
    return os.environ["JAX_PLATFORMS"] == "cpu"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and importlib.util.find_spec("libtpu") is None

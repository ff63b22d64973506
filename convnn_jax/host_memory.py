"""Keeps memory that a CPU's programs free, for the next step to find again."""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib

# Options of mallopt(3), glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
# Of madvise(2).
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 * 2**20
_HUGE_PAGES_FILE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OVERCOMMIT_FILE = pathlib.Path("/proc/sys/vm/overcommit_memory")


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
  if not all(taken):
    return False
  _ask_for_huge_pages()
  return True


def _may_ask_for_huge_pages() -> bool:
  """Whether a large block that nobody touches costs nothing here, and the system gives large pages on request."""
  try:
    on_request = "[madvise]" in _HUGE_PAGES_FILE.read_text()
    promised = _OVERCOMMIT_FILE.read_text().strip() != "2"  # there memory counts as used when it is asked for
  except OSError:
    return False
  import resource

  unlimited = resource.RLIM_INFINITY
  limits = {resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)}
  # Another malloc, or one that writes to what it hands out.
  changed = ("LD_PRELOAD", "MALLOC_PERTURB_", "GLIBC_TUNABLES")
  return (
    on_request and promised and limits == {unlimited} and not any(os.environ.get(name) for name in changed)
  )


def _ask_for_huge_pages() -> None:
  """Has the memory that malloc hands out from now on in pages of 2 MB, where the system gives them on request.

  One block of half the machine's memory is taken, advised and given back untouched: the address range stays with the
  heap, which costs nothing until it is used. What is gained by it: docs/speed.md.
  """
  if not _may_ask_for_huge_pages():
    return
  library = ctypes.CDLL(None)
  library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
  library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
  library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
  block = library.malloc(size)
  if not block:
    return
  begin = -(-block // _HUGE_PAGE) * _HUGE_PAGE
  library.madvise(begin, (block + size - begin) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
  library.free(block)


def only_cpus_compute() -> bool:
  """Whether JAX will run on CPUs, found out without starting it: none of its plugins for accelerators is installed,
  or JAX_PLATFORMS says "cpu"."""
  if os.environ.get("JAX_PLATFORMS"):
    return os.environ["JAX_PLATFORMS"] == "cpu"
  plugins = importlib.metadata.entry_points(group="jax_plugins")
  return not plugins and importlib.util.find_spec("libtpu") is None

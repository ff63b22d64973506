"""What tells a damaged checkpoint from one that belongs to another model.

TensorStore notices a truncated or scrambled file by its compression, yet float parameters hardly
compress and are then stored as they are: changed bytes come back as numbers. So every array gets a
checksum when it is saved, compared after it is read.
"""

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from convnn_jax.errors import UserError

# Reading failed, the files may be whole: falling back would throw away good training.
_NOT_DAMAGE = (PermissionError, MemoryError, TimeoutError, RuntimeError)
_NOT_DAMAGE_CODES = (
  "PERMISSION_DENIED",
  "UNAUTHENTICATED",
  "UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "RESOURCE_EXHAUSTED",
)


def _checksum(x):
  """The sum of an array's words modulo 2^32: the same on any number of devices."""
  if jnp.issubdtype(x.dtype, jnp.complexfloating):
    x = jnp.stack([x.real, x.imag])
  if jnp.issubdtype(x.dtype, jnp.floating):
    words = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    x = jax.lax.bitcast_convert_type(x, words)
  return jnp.sum(x.astype(jnp.uint32), dtype=jnp.uint32)


# One program for all arrays: many small ones at once, each with its own sum over devices, can wait for one another
# for ever on simulated CPU devices.
_checksums = jax.jit(lambda leaves: {path: _checksum(leaf) for path, leaf in leaves.items()})


def by_path(tree) -> dict:
  """The leaves of a pytree by their path, "head/kernel"; the same for a tree and its saved form."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksums(tree) -> dict[str, list]:
  """Checksum and dtype of every array of `tree` by its path; all processes must call it."""
  leaves = by_path(tree)
  sums = jax.device_get(_checksums(leaves))
  return {path: [int(sums[path]), str(leaf.dtype)] for path, leaf in leaves.items()}


def first_difference(saved: dict[str, list], restored: dict[str, list]) -> str:
  """Path of the first array whose checksum changed, or ""; not compared if its dtype changed."""
  for path, (number, dtype) in restored.items():
    if path in saved and saved[path][1] == dtype and saved[path][0] != number:
      return path
  return ""


def check_fit(where: str, item: str, saved, target) -> None:
  """Checks that a saved item has the parameters of `target`, by name and shape.

  Args:
    where: the checkpoint in words, for the message.
    item: name of the item, for the message.
    saved: pytree of anything with a shape, orbax's description of the item.
    target: pytree of `jax.ShapeDtypeStruct`.

  Raises:
    UserError: names or shapes differ; names the first of them.
  """
  saved = {path: tuple(leaf.shape) for path, leaf in by_path(saved).items()}
  wanted = {path: tuple(leaf.shape) for path, leaf in by_path(target).items()}
  lines = []
  for path in [*wanted, *(path for path in saved if path not in wanted)]:
    if path not in saved:
      lines.append(f"{item}/{path} {wanted[path]} is not in the checkpoint")
    elif path not in wanted:
      lines.append(f"{item}/{path} {saved[path]} is only in the checkpoint")
    elif saved[path] != wanted[path]:
      lines.append(f"{item}/{path} is {saved[path]} in the checkpoint, {wanted[path]} here")
  if lines:
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    raise UserError(
      f"{where} holds another model: {'; '.join(lines[:3])}{more}. "
      "Use the config it was trained with, or another --workdir."
    )


def explain(error: Exception) -> str:
  """One short line on why reading failed: the innermost cause."""
  while error.__cause__ is not None:
    error = error.__cause__
  line = (str(error).splitlines() or [""])[0].split(" [")[0]
  return f"{type(error).__name__}: {line}"[:200]


def is_damage(error: BaseException | None) -> bool:
  """False if the storage, the rights or the memory failed, not the checkpoint."""
  while error is not None:
    if isinstance(error, _NOT_DAMAGE) or any(code in str(error) for code in _NOT_DAMAGE_CODES):
      return False
    error = error.__cause__
  return True


def worst_of_all_processes(level: int) -> int:
  """The greatest `level` of any process, so that all of them decide alike."""
  if jax.process_count() == 1:
    return level
  return int(multihost_utils.process_allgather(jnp.int32(level)).max())

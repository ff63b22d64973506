"""Reading one step of a run's checkpoints, and clearing the place of a damaged one."""

import contextlib
import functools
import logging
import os
import sys

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from convnn_jax.errors import UserError
from convnn_jax.training import checkpoint_checks as checks

_log = logging.getLogger(__name__)


def read_record(directory) -> dict:
  """The JSON item of a step: "metric", "checksums" and the caller's "meta"."""
  with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
    return handler.restore(directory / "meta")


def read_shapes(directory, item: str):
  """orbax's description of an item: a pytree of leaves with shape and dtype.

  Raises:
    UserError: it cannot be read.
  """
  try:
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      return handler.metadata(directory / item).tree
  except Exception as error:  # TensorStore raises a bare Exception for damaged data
    raise UserError(f"Checkpoint {directory} cannot be read: {checks.explain(error)}.") from error


def read_step(directory, targets: dict) -> tuple[str, dict, dict | None]:
  """Reads the items `targets` of a step, with the same verdict in all processes.

  Args:
    directory: folder of the step.
    targets: name -> pytree of `jax.ShapeDtypeStruct` with shardings.

  Returns:
    (what is damaged or "", items, meta).

  Raises:
    UserError: the step was saved by another model, or the storage does not let us read it.
  """
  where = f"Checkpoint {directory}"
  items, record, problem, level, name = {}, {}, "", 0, "meta"
  _drop_abandoned_reads()
  try:
    # Handlers instead of orbax's manager: no barrier at which one failing process leaves the
    # others waiting, and no memory of how an item was read before.
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      record = read_record(directory)
      missing = sorted(set(targets) - set(record["checksums"]))
      if missing:
        raise UserError(f"{where} has the items {sorted(record['checksums'])}, not {missing}.")
      for name, target in targets.items():
        checks.check_fit(where, name, handler.metadata(directory / name).tree, target)
        items[name] = handler.restore(directory / name, args=ocp.args.StandardRestore(target))
  except UserError:
    raise
  except Exception as error:  # TensorStore raises a bare Exception for damaged data
    problem = f"{name}: {checks.explain(error)}"
    level = 1 if checks.is_damage(error) else 2
  worst = checks.worst_of_all_processes(level)
  if worst == 2:
    raise UserError(f"{where} cannot be read now ({problem or 'in another process'}).")
  if worst == 1:
    return problem or "another process cannot read it", {}, None
  for name, tree in items.items():
    path = checks.first_difference(record["checksums"][name], checks.checksums(tree))
    if path:
      return f"{name}: {path} does not have the numbers that were saved", {}, None
  return "", items, record["meta"]


def move_aside(directory, what: str = "damaged"):
  """Moves the folder of a step to damaged-<step>, or another word, by process 0; all must call it.

  Training will save that step again, and orbax ignores folders whose name is not a number.

  Returns:
    Where the folder lies now.
  """
  wanted = [f"{what}-{directory.name}", *(f"{what}-{directory.name}-{i}" for i in range(2, 1000))]
  taken = {path.name for path in directory.parent.iterdir()}
  place = directory.parent / next(name for name in wanted if name not in taken)
  if jax.process_count() > 1:  # all have looked before anything moves
    multihost_utils.sync_global_devices(f"checkpoint {directory.name} is {what}")
  if jax.process_index() == 0:
    directory.rename(place)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"checkpoint {directory.name} moved aside")
  return place


def report_damage(directory, reason: str, used: int, *, move) -> None:
  """Moves a damaged step by `move` and says in one line what happened; all processes call it."""
  place = move(directory)
  if jax.process_index() == 0:
    text = "Checkpoint step %s is damaged (%s): step %d is used instead. The damaged one is kept: %s"
    _log.warning(text, directory.name, reason, used, place)


def no_orbax_chatter(record: logging.LogRecord) -> bool:
  """A filter: drops orbax's notes (dozens a save) and its remark on opening read only."""
  if f"{os.sep}orbax{os.sep}" not in record.pathname:
    return True
  return record.levelno >= logging.WARNING and "read only" not in str(record.msg)


@functools.cache  # once for the whole program, as they complain late: when they are freed
def _drop_abandoned_reads():
  """Silences the reads that orbax gives up when one of them fails: the failure itself is raised."""
  previous = sys.unraisablehook

  def hook(unraisable):
    # Judged by whose coroutine it is: the storage has many words for what went wrong.
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code is not None and f"{os.sep}orbax{os.sep}" in code.co_filename
    if not of_orbax and "Event loop is closed" not in str(unraisable.exc_value):
      previous(unraisable)

  sys.unraisablehook = hook
  # Whatever the storage's words for it are: only orbax runs asyncio tasks here.
  abandoned = (
    "Event loop is closed",
    "Future exception was never retrieved",
    "Task exception was never retrieved",
    "Task was destroyed but it is pending",
  )
  logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith(abandoned))

"""A function called in a process of its own, whatever becomes of that process."""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable

from convnn_jax.errors import RunFailed, UserError


def in_new_process(function: Callable, *arguments):
  """What the function gives in a new process, in which nothing else was computed.

  Raises:
    UserError: the function raised one.
    RunFailed: it raised something else, whose traceback the error holds, or the process ended before it answered,
      as it does where memory is short.
  """
  context = multiprocessing.get_context("spawn")
  ours, theirs = context.Pipe(duplex=False)
  # A daemon is ended with us; its own children are no daemons' children, as they come by subprocess.
  process = context.Process(target=_answer, args=(theirs, function, arguments), daemon=True)
  process.start()
  theirs.close()
  try:
    kind, answer = ours.recv()
  except EOFError:
    process.join()
    raise RunFailed(f"its process ended with code {process.exitcode}; is memory short?") from None
  except BaseException:  # Ctrl-C: nobody waits for the answer
    process.terminate()
    raise
  process.join()
  if kind == "answer":
    return answer
  raise UserError(answer) if kind == "mistake" else RunFailed(answer)


def _answer(connection, function: Callable, arguments: tuple) -> None:
  """The other process: sends (kind, answer), once."""
  threading.Thread(target=_end_with_parent, daemon=True).start()
  try:
    answer = "answer", function(*arguments)
  except UserError as error:
    answer = "mistake", str(error)
  except Exception:
    # As text: an error of another package may be one that cannot be sent.
    answer = "failure", traceback.format_exc().rstrip()
  except KeyboardInterrupt:
    sys.exit(130)
  connection.send(answer)


def _end_with_parent() -> None:
  """Nobody waits for the answer of a process whose parent was killed, and it would disturb the next measurement."""
  multiprocessing.parent_process().join()
  os._exit(1)

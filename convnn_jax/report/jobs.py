"""Points of a sweep side by side, each in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from convnn_jax.errors import UserError
from convnn_jax.training.metrics import say

_POLL_SECONDS = 0.2


def run(points, root: pathlib.Path, count: int, command: list[str]) -> tuple[bool, dict[str, str]]:
  """Runs the points, `count` at a time; what they print goes to root/logs/.

  SIGTERM and Ctrl-C are passed on to the running processes, which save and end.

  Args:
    points: of the sweep, not finished.
    root: folder of the sweep.
    count: processes at a time.
    command: flags of the sweep that each process gets.

  Returns:
    (all were tried, name -> why it failed).

  Raises:
    UserError: a point's process ended with one.
  """
  (root / "logs").mkdir(exist_ok=True)
  waiting, running, failed, mistakes = list(points), {}, {}, []
  stopping = []
  previous = {
    n: signal.signal(n, lambda number, _: stopping.append(number)) for n in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    while running or (waiting and not stopping and not mistakes):
      while waiting and len(running) < count and not stopping and not mistakes:
        point = waiting.pop(0)
        say(f"started {point.name}")
        running[_start(point, root, command)] = point
      if stopping and stopping[0]:
        for process in running:
          process.terminate()
        stopping[:] = [0]  # passed on
      time.sleep(_POLL_SECONDS)
      for process in [p for p in running if p.poll() is not None]:
        point = running.pop(process)
        # A process that was killed, by the system for its memory for example, could not say so itself.
        killed = process.returncode < 0
        reason = f"killed by signal {-process.returncode}" if killed else _last_line(root, point)
        if process.returncode == 2:
          mistakes.append(reason if point.name in reason else f"{point.name}: {reason}")
        elif process.returncode and not stopping:
          failed[point.name] = reason
        say(f"{'ended' if process.returncode == 0 else 'failed'} {point.name}  {reason}")
  finally:
    for process in running:
      process.terminate()
    for number, handler in previous.items():
      signal.signal(number, handler)
  if mistakes:
    raise UserError("; ".join(mistakes))
  return not stopping, failed


def _start(point, root: pathlib.Path, command: list[str]) -> subprocess.Popen:
  arguments = [sys.executable, "-m", "convnn_jax.report.sweep", *command, f"--only={point.part}/{point.name}"]
  # By default the first process on a GPU takes most of its memory.
  environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
  with _log(root, point).open("a") as log:
    # A session of its own: Ctrl-C reaches this process only, which passes it on once.
    return subprocess.Popen(
      arguments, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )


def _log(root: pathlib.Path, point) -> pathlib.Path:
  return root / "logs" / f"{point.part}-{point.name}.txt"


def _last_line(root: pathlib.Path, point) -> str:
  lines = _log(root, point).read_text(errors="replace").strip().splitlines()
  return lines[-1].removeprefix("error: ") if lines else "said nothing"

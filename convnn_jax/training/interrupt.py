"""Ending a run on a signal: finish the step, save, exit cleanly."""

import os
import signal
import threading

import jax

_NOTE = b"Interrupted: finishing this step, then saving.\n"


class Interruption:
  """While open, the first SIGTERM or SIGINT sets `requested` instead of ending the program.

  A second Ctrl-C raises KeyboardInterrupt at once. The handlers found are put back on exit. Python
  allows handlers in the main thread only: elsewhere, nothing is changed.

  In several processes the signals are left alone. `jax.distributed.initialize` has by then
  installed its own handler of SIGTERM, which tells all processes (ours would replace it), and
  Ctrl-C ends the program as usual.

      with Interruption() as interruption:
        for step in ...:
          ...
          if interruption.agreed(step, checkpoints):
            checkpoints.save(step, ..., finish="now")
            break
  """

  def __init__(self):
    self.requested = False
    self._previous = {}

  def __enter__(self):
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_):
    for number, handler in self._previous.items():
      # None stands for a handler that was not installed from Python and cannot be put back.
      signal.signal(number, signal.SIG_DFL if handler is None else handler)
    self._previous.clear()

  def agreed(self, step: int, checkpoints) -> bool:
    """Whether to save and stop after this step; asked once per step, by all processes.

    Args:
      step: number of the step just done.
      checkpoints: the run's `Checkpoints`; only asked in several processes.

    Returns:
      `requested` in one process. In several, True in all of them at one same step after a SIGTERM
      reached any of them: one or a few steps later, when all have heard of it.
    """
    if jax.process_count() == 1:
      return self.requested
    if not self.requested and checkpoints.reached_preemption(step):
      self.requested = True
      if jax.process_index() == 0:
        os.write(2, _NOTE)
    return self.requested

  def _handle(self, number, frame):
    del frame
    if self.requested:
      if number == signal.SIGINT:
        raise KeyboardInterrupt
      return  # schedulers repeat SIGTERM
    self.requested = True
    os.write(2, _NOTE)  # print could be what the signal interrupted, and fail

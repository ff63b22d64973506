"""--profile=STEPS: a trace of some steps for TensorBoard's profiler."""

import jax
from etils import epath


class Profiler:
  """Traces `num_steps` steps, after the first ones, which compile."""

  SKIPPED = 5  # steps before the trace begins

  def __init__(self, folder: epath.Path, start_step: int, num_steps: int):
    """num_steps = 0 traces nothing."""
    self._folder = folder
    self._first = start_step + 1 + self.SKIPPED
    self._last = self._first + num_steps - 1
    self._tracing = False

  @property
  def ends(self) -> tuple[int, ...]:
    """Steps with which a chunk of steps must end, so that the trace begins and ends between chunks."""
    return (self._first - 1, self._last) if self._last >= self._first else ()

  def before(self, step: int) -> None:
    """Call before the step is sent to the device."""
    if step == self._first <= self._last:
      jax.profiler.start_trace(str(self._folder))
      self._tracing = True

  def after(self, step: int, outputs) -> None:
    """Call after; `outputs` are awaited when the trace ends."""
    if self._tracing and step == self._last:
      jax.block_until_ready(outputs)
      self._stop()

  def _stop(self):
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._stop()

"""What a run tells: metrics.jsonl, TensorBoard, a progress bar on a terminal, plain lines elsewhere."""

import json
import math
import os
import statistics
import sys
import time

import jax
import tensorboardX
from etils import epath
from tqdm import tqdm


def rounded(metrics: dict[str, float]) -> dict[str, float]:
  """Values as they are printed and stored: fractions to 6 digits, losses to 5.

  So many digits are the same however the examples were spread over devices; the next ones need not be.
  """
  return {name: round(value, 5 if name.endswith("loss") else 6) for name, value in metrics.items()}


def finite_or_none(metrics: dict[str, float]) -> dict[str, float | None]:
  """JSON has no NaN."""
  return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def say(line: str) -> None:
  """Prints a line on standard output, above a progress bar if there is one."""
  tqdm.write(line, file=sys.stdout)
  sys.stdout.flush()


class Writer:
  """Appends rows to metrics.jsonl and TensorBoard; does nothing in other processes than the first.

  Rows after `start_step` come from a run that was killed and will be computed again: they are taken out, so that
  no step stands in the file twice.
  """

  def __init__(self, workdir: epath.Path, start_step: int):
    """Opens the files in `workdir`, which exists."""
    self._file = self._board = None
    if jax.process_index():
      return
    path = workdir / "metrics.jsonl"
    kept = _rows_until(path, start_step)
    temporary = workdir / "metrics.jsonl.tmp"
    temporary.write_text("".join(kept))
    temporary.replace(path)
    self._file = path.open("a")
    self._board = tensorboardX.SummaryWriter(os.fspath(workdir), purge_step=start_step + 1)

  def write(self, step: int, part: str, metrics: dict[str, float]) -> None:
    """One row {"step", "part", ...}; `part`: "train" (this step), "mean" (since the last evaluation), "test"."""
    if self._file is None:
      return
    self._file.write(json.dumps({"step": step, "part": part, **finite_or_none(metrics)}) + "\n")
    self._file.flush()
    for name, value in metrics.items():
      if math.isfinite(value):  # TensorBoard draws nothing else
        self._board.add_scalar(f"{part}/{name}", value, step)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._file is not None:
      self._file.close()
      self._board.close()


def _rows_until(path: epath.Path, step: int) -> list[str]:
  """Complete lines of steps up to `step`; a kill may have cut the last line."""
  if not path.exists():
    return []
  rows = []
  for line in path.read_bytes().decode(errors="replace").splitlines(keepends=True):
    try:
      if json.loads(line)["step"] <= step:
        rows.append(line)
    except (ValueError, KeyError, TypeError):
      continue
  return rows


class Progress:
  """Counts steps and time; a bar on a terminal, a line every half minute elsewhere.

  Time runs from `restart_clock` to `mark`, which comes when the device has caught up: compilation, evaluation and
  saving do not count as training.
  """

  SECONDS_BETWEEN_LINES = 30.0

  def __init__(self, start: int, total: int, batch_size: int):
    """Starts the clock at step `start` of `total`."""
    self._total, self._done, self._batch_size = total, start, batch_size
    self._speaks = jax.process_index() == 0
    bar = self._speaks and sys.stderr.isatty()
    self._bar = tqdm(
      total=total, initial=start, unit="step", disable=not bar, leave=False, dynamic_ncols=True
    )
    self._marked = self._said = time.perf_counter()
    self._marked_step = start
    self.seconds = 0.0  # of training so far
    self._step_seconds: list[float] = []  # mean step of each interval

  def step(self, count: int = 1) -> None:
    """Counts steps that were sent to the device."""
    self._done += count
    self._bar.update(count)

  def mark(self, newest: dict[str, float]) -> None:
    """The device has finished all steps so far; `newest` holds the last one's loss and top1."""
    now = time.perf_counter()
    spent, steps = now - self._marked, self._done - self._marked_step
    self.seconds += spent
    if steps:
      self._step_seconds.append(spent / steps)
    self._marked, self._marked_step = now, self._done
    text = f"loss {newest['loss']:.4f} top-1 {100 * newest['top1']:.2f} % {self.speed(self._done)}"
    self._bar.set_postfix_str(text, refresh=False)
    if self._speaks and self._bar.disable and now - self._said > self.SECONDS_BETWEEN_LINES:
      self._said = now
      say(f"step {self._done}/{self._total}  {text}")

  def restart_clock(self) -> None:
    """Training goes on after something else."""
    self._marked = self._said = time.perf_counter()

  def median_step(self) -> float | None:
    """Median over intervals of a step's seconds; None before the first mark."""
    return statistics.median(self._step_seconds) if self._step_seconds else None

  def speed(self, step: int) -> str:
    """Images per second of the last interval and time left."""
    if not self._step_seconds:
      return ""
    left = int((self._total - step) * statistics.median(self._step_seconds))
    eta = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
    return f"{self._batch_size / self._step_seconds[-1]:,.0f} images/s ETA {eta}"

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._bar.close()

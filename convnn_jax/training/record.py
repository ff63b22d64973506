"""What a run remembers besides its state: running means, the last and the best evaluation, time spent."""

import dataclasses
import math

import jax

from convnn_jax.errors import RunFailed


@dataclasses.dataclass
class RunRecord:
  """Saved in each checkpoint's meta, so that a resumed run reports what the uninterrupted one does.

  Attributes:
    step: steps done.
    seconds: training time of all sessions, without evaluation.
    sums: loss, top1 and number of finite steps since the last evaluation.
    skipped: updates left out so far.
    last_test: metrics of the last evaluation and its step.
    best_top1, best_step: the best evaluation, the earliest of equals.
  """

  step: int = 0
  seconds: float = 0.0
  sums: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
  skipped: int = 0
  last_test: dict | None = None
  best_top1: float = -1.0
  best_step: int = 0

  def to_meta(self) -> dict:
    """As JSON values."""
    return dataclasses.asdict(self)

  @classmethod
  def from_meta(cls, meta: dict) -> "RunRecord":
    """The inverse of `to_meta`."""
    return cls(**meta)

  def take_in(self, window: list[dict], max_skipped: int) -> tuple[dict[str, float], list[str]]:
    """Reads the metrics of the steps since the last call from the device and empties the window.

    Returns:
      The newest step's metrics, and a warning for every step whose update was left out.

    Raises:
      RunFailed: `max_skipped` updates in a row were not finite.
    """
    rows = [{name: float(x) for name, x in row.items()} for row in jax.device_get(window)]
    window.clear()
    warnings = []
    for row in rows:
      self.step += 1
      if row["skipped"] > self.skipped:
        self.skipped = int(row["skipped"])
        warnings.append(
          f"step {self.step}: loss or gradient is not finite; the update is left out ({self.skipped} so far)"
        )
      if row["skipped_in_a_row"] >= max_skipped:
        raise RunFailed(
          f"Stopped at step {self.step}: the last {max_skipped} losses or gradients were not finite."
          " Checkpoints saved before are kept; a smaller optimizer.learning_rate, warm-up or clip_norm, in another"
          " --workdir, may help."
        )
      if math.isfinite(row["loss"]):
        self.sums = [a + b for a, b in zip(self.sums, (row["loss"], row["top1"], 1.0), strict=True)]
    return rows[-1], warnings

  def evaluated(self, test: dict[str, float]) -> dict[str, float]:
    """Notes an evaluation; returns the mean training metrics since the one before."""
    loss, top1, count = self.sums
    self.sums = [0.0, 0.0, 0.0]
    self.last_test = {"step": self.step, **test}
    if test["top1"] > self.best_top1:
      self.best_top1, self.best_step = test["top1"], self.step
    return {"loss": loss / count, "top1": top1 / count} if count else {"loss": math.nan, "top1": math.nan}

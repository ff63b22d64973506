"""Checkpoints of a run: written in the background, checked when read, never lost silently."""

import contextlib
import logging
import math
import os
from collections.abc import Sequence

import orbax.checkpoint as ocp
from etils import epath

from convnn_jax.errors import UserError, choose
from convnn_jax.training import checkpoint_checks as checks
from convnn_jax.training import checkpoint_read as reading

# read_only sets these itself, but logs a warning for each.
_MODES = {
  "write": {"cleanup_tmp_directories": True},
  "read": {"read_only": True, "save_interval_steps": 0, "create": False},
}
_DAMAGED = {"write": reading.move_aside, "read": lambda directory: directory}
_FINISH = {"later": lambda manager: None, "now": lambda manager: manager.wait_until_finished()}


class Checkpoints:
  """Checkpoints of one run in `workdir`/checkpoints; the last `keep` and the best one are kept.

  A step's folder gets its name only when it is complete. In several processes, all of them make
  the same calls in the same order.
  """

  def __init__(self, workdir, *, keep: int = 3, mode: str = "write"):
    """Opens the checkpoints of a run.

    Args:
      workdir: the run's folder, also gs://.
      keep: how many of the newest steps to keep, beside the best one.
      mode: "write" to train; "read" neither creates nor changes anything.

    Raises:
      UserError: `keep` is below 1, or an unknown mode.
    """
    if keep < 1:
      raise UserError(f"keep_checkpoints={keep} must be at least 1: a run resumes from the last.")
    directory = epath.Path(workdir)
    if "://" not in os.fspath(workdir):
      directory = directory.expanduser().resolve()  # orbax refuses relative paths
    self._directory = directory / "checkpoints"
    self._mode, self._keep = mode, keep
    self._metrics: dict[int, float | None] = {}
    logging.getLogger("absl").addFilter(reading.no_orbax_chatter)
    # Metrics lie in our own meta item: on a half-written metrics file orbax would not even open.
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self, lightweight_initialize=True, **choose("mode", mode, _MODES)
    )
    self._manager = ocp.CheckpointManager(self._directory, options=options)

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    """Which steps stay: the last `keep` and the best (orbax's PreservationPolicy)."""
    steps = sorted(info.step for info in checkpoints)
    kept = {*steps[-self._keep :], self._best_of(steps)}
    return [info.step in kept for info in checkpoints]

  def save(
    self, step: int, items: dict, meta: dict, *, metric: float | None = None, finish: str = "later"
  ) -> bool:
    """Saves a step; the arrays may be donated or changed as soon as this returns.

    Args:
      step: number of the step.
      items: name -> pytree of arrays; each can be restored alone.
      meta: anything that JSON can hold.
      metric: what `best` compares, larger is better; None (or NaN) never counts as best.
      finish: "later" writes in the background, "now" returns when the step is on disk.

    Returns:
      False if the step was saved before, and so nothing was done.

    Raises:
      OSError: writing failed; of a save in the background, the next call raises it.
    """
    wait = choose("finish", finish, _FINISH)
    saved = step not in self._manager.all_steps()
    if saved:
      metric = None if metric is None or not math.isfinite(metric) else float(metric)
      self._metrics[step] = metric
      sums = {name: checks.checksums(tree) for name, tree in items.items()}
      record = {"metric": metric, "checksums": sums, "meta": meta}
      trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
      args = ocp.args.Composite(**trees, meta=ocp.args.JsonSave(record))
      # force: without it orbax skips what it deems too early; when to save is the loop's decision.
      self._manager.save(step, force=True, args=args)
    wait(self._manager)
    return saved

  def steps(self) -> list[int]:
    """The saved steps in ascending order, the one being written included."""
    return sorted(self._manager.all_steps())

  def latest(self) -> int | None:
    """The newest step, None if there is none."""
    return max(self.steps(), default=None)

  def best(self) -> int | None:
    """The step with the largest metric, the earliest of equals; None if no step has one."""
    return self._best_of(self.steps())

  def metric(self, step: int) -> float | None:
    """The metric a step was saved with; None if there was none or it cannot be read."""
    if step not in self._metrics:
      self._metrics[step] = None
      with contextlib.suppress(Exception):  # a damaged step is reported when it is restored
        self._metrics[step] = reading.read_record(self._at(step))["metric"]
    return self._metrics[step]

  def read_meta(self, step: int) -> dict:
    """The `meta` a step was saved with; UserError if it does not exist or cannot be read."""
    self._settle()
    directory = self._at(self._existing(step))
    try:
      return reading.read_record(directory)["meta"]
    except Exception as error:
      raise UserError(f"Checkpoint {directory} is damaged: {checks.explain(error)}.") from error

  def shapes(self, item: str, step: int | str = "last"):
    """What a step's item holds, without reading it.

    Args:
      item: its name.
      step: "best", a number, or "last".

    Returns:
      (step, pytree of anything with shape and dtype), or None if there is no checkpoint at all.

    Raises:
      UserError: no such step, or it cannot be read.
    """
    self._settle()
    if not self.steps():
      return None
    number = self._candidates(step)[0]
    return number, reading.read_shapes(self._at(number), item)

  def restore(self, targets: dict, step: int | str | Sequence[int] = "last"):
    """Reads a step onto the devices that `targets` name, however many it was saved from.

    Args:
      targets: name -> pytree of `jax.ShapeDtypeStruct` with shardings; a part of the saved items
        is enough.
      step: "best", a number, several, of which the first readable one is taken, or "last", the newest
        readable one: damaged ones are reported and, in mode "write", moved to
        checkpoints/damaged-<step>, as training will save that step again.

    Returns:
      (step, items, meta), or None if there is no checkpoint at all.

    Raises:
      UserError: no such step, it is damaged, all are, or it was saved by another model.
    """
    self._settle()
    if not self.steps():
      return None
    damaged = {}
    for candidate in self._candidates(step):
      problem, items, meta = reading.read_step(self._at(candidate), targets)
      if not problem:
        for bad, reason in damaged.items():
          reading.report_damage(self._at(bad), reason, candidate, move=_DAMAGED[self._mode])
          self._metrics.pop(bad, None)
        self._manager.reload()
        return candidate, items, meta
      damaged[candidate] = problem
    reasons = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
    others = sorted(set(self.steps()) - set(damaged))
    way_out = f"Use another step of {others}" if others else "Put back a copy of one"
    raise UserError(f"Damaged in {self._directory}: {reasons}. {way_out}, or another --workdir.")

  def set_aside_after(self, step: int) -> list:
    """Moves the steps after `step` to checkpoints/unused-<step>, as they will be trained again.

    Returns:
      Where they lie now.
    """
    self._settle()
    later = [number for number in self.steps() if number > step]
    places = [reading.move_aside(self._at(number), "unused") for number in later]
    for number in later:
      self._metrics.pop(number, None)
    self._manager.reload()
    return places

  def reached_preemption(self, step: int) -> bool:
    """True in all processes at one same step after a SIGTERM reached any of them.

    To be asked once per step, after `jax.distributed.initialize`; False without it.
    """
    return self._manager.reached_preemption(step)

  def close(self) -> None:
    """Waits for the pending save and raises what went wrong in it."""
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _best_of(self, steps):
    scored = [step for step in sorted(steps) if self.metric(step) is not None]
    return max(scored, key=self.metric, default=None)  # max returns the first of equals

  def _candidates(self, step):
    if step == "last":
      return self.steps()[::-1]
    if step == "best":
      step = self.best()
      if step is None:
        raise UserError(f"No checkpoint in {self._directory} was evaluated; use the last one.")
    return [self._existing(one) for one in (step if isinstance(step, (list, tuple)) else [step])]

  def _existing(self, step):
    if step not in self.steps():
      raise UserError(f"No checkpoint of step {step} in {self._directory}. Steps: {self.steps()}.")
    return step

  def _settle(self):
    self._manager.wait_until_finished()
    if self._mode == "read":
      self._manager.reload()  # a run may be writing here
      self._metrics.clear()

  def _at(self, step):
    return self._directory / str(step)

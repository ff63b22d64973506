"""Several runs of equal shape in one compiled program: the step of one run under jax.vmap.

Each member has its own seed, data order, parameters and folder. What a member leaves is what its single run leaves,
apart from checkpoints: they are written at the end, when the program is interrupted, and every
config.checkpoint_every steps if that is set (not once per epoch, and so the best epoch's is not kept). Times are the
group's, divided by its members. A member that diverges leaves failed.json, and the others go on without it.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from convnn_jax import data
from convnn_jax.errors import RunFailed
from convnn_jax.training import members_resume as resume
from convnn_jax.training import report_lines
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.interrupt import Interruption
from convnn_jax.training.loop import result_of
from convnn_jax.training.members_program import (
  Members,
  can_differ,
  check_alike,
  check_possible,
  fixed_fields,
)
from convnn_jax.training.members_resume import last_step
from convnn_jax.training.metrics import Progress, Writer, rounded, say

__all__ = [
  "Members",
  "can_differ",
  "check_alike",
  "check_possible",
  "fixed_fields",
  "last_step",
  "train_members",
]


def train_members(configs: Sequence[ConfigDict], workdirs: Sequence[str]) -> list[dict | RunFailed] | None:
  """Trains a group, each member in its folder, from the last step that all have saved.

  Members that failed in an earlier session stay failed. Members that share no saved step are trained in groups of
  their own, one after the other.

  Returns:
    For each member the contents of its result.json, or why it failed; None if interrupted (and saved).

  Raises:
    UserError: a config or a folder cannot be used, or the configs differ in shape.
  """
  results = [resume.failure(path) for path in workdirs]
  for path, failed in zip(workdirs, results, strict=True):
    if failed:
      say(f"{path} is left out: {failed}")
  parts = [[number for number, failed in enumerate(results) if failed is None]]
  with Interruption() as interruption:  # open while compiling, too: that can take minutes
    while parts and (part := parts.pop(0)):
      own = [configs[number] for number in part], [workdirs[number] for number in part]
      try:
        done = _train_together(*own, interruption)
      except resume.Apart as apart:
        say(f"no saved step is common to these runs; they go on in {len(apart.parts)} groups")
        parts = [[part[i] for i in positions] for positions in apart.parts] + parts
        continue
      if done is None:
        return None
      for number, result in zip(part, done, strict=True):
        results[number] = result
  return results


def _train_together(configs, workdirs, interruption) -> list[dict | RunFailed] | None:
  """As `train_members`, in one program; raises `resume.Apart` if the members share no saved step."""
  group = Members(configs)
  first, pieces = configs[0], group.pieces[0]
  dataset = data.open_dataset(first.data)
  folders = [workdir_lib.open_workdir(path, config) for path, config in zip(workdirs, configs, strict=True)]
  say(
    f"{group.size} runs in one program, {pieces.num_steps} steps of {group.size} x {first.batch_size} images"
  )
  for folder, config in zip(folders, configs, strict=True):
    workdir_lib.write_once(folder / "model.txt", report_lines.model_text(config, pieces))
  on_device = lambda split: jax.device_put({"image": split.images, "label": split.labels}, group.everywhere)

  with contextlib.ExitStack() as stack:
    for folder in folders:
      stack.enter_context(workdir_lib.only_run_in(folder))
    state, records = resume.restore_or_create(group, folders)
    train, evaluate = on_device(dataset.train), _Evaluation(group, dataset.test, on_device(dataset.test))
    start, total = records[0].step, pieces.num_steps
    failed: dict[int, RunFailed] = {}
    spent_before = [record.seconds for record in records]
    batches = group.batches(len(dataset.train), start)
    say("compiling the training step" + (f"; going on after step {start} of {total}" if start else ""))
    begun, ahead = time.perf_counter(), next(batches)
    update = group.make_update().lower(state, group.values, train, ahead).compile()
    say(f"compiled in {time.perf_counter() - begun:.1f} s")
    window = []
    progress = stack.enter_context(Progress(start, total, group.size * first.batch_size))
    logs = [stack.enter_context(Writer(folder, start)) for folder in folders]
    for step, batch in zip(range(start + 1, total + 1), itertools.chain([ahead], batches), strict=False):
      state, metrics = update(state, group.values, train, batch)
      window.append(metrics)
      progress.step()
      due = lambda every, step=step: bool(every) and step % every == 0 or step == total
      evaluating = due(first.eval_every or pieces.steps_per_epoch)
      stopping = interruption.requested and step < total
      saving = due(first.checkpoint_every) or stopping
      if not (due(first.log_every) or evaluating or saving):
        continue
      newest = _take_in(window, records, folders, failed, first.max_skipped_updates)
      progress.mark(_mean(newest))
      tests = evaluate(state) if evaluating else [None] * group.size
      _log(step, records, logs, newest, tests, failed)
      if evaluating:
        epoch = (
          f"epoch {step / pieces.steps_per_epoch:g}/{first.num_epochs}  step {step}  mean of {group.size}:"
        )
        say(f"{epoch} {_means_line(newest, tests)}  {progress.speed(step)}")
      if saving:
        for record, before in zip(records, spent_before, strict=True):
          record.seconds = before + progress.seconds / group.size
        resume.save(state, records, folders, first.keep_checkpoints, failed, tests)
      if stopping:
        say(f"interrupted: step {step} of {total} is saved; the same command goes on from there")
        return None
      if len(failed) == group.size:
        break
      progress.restart_clock()
  return _results(group, state, records, folders, progress, failed)


class _Evaluation:
  """The test set for all members at once, every example exactly once."""

  def __init__(self, group: Members, split, resident):
    self._group, self._resident = group, resident
    self._step = group.make_evaluate()
    size = min(group.configs[0].eval_batch_size, len(split))
    self._batches = lambda: data.eval_batches(split, batch_size=size, sharding=group.everywhere)

  def __call__(self, state) -> list[dict[str, float]]:
    variables = {"params": state.evaluated_params, **state.collections}
    parts = [self._step(variables, self._group.values, self._resident, batch) for batch in self._batches()]
    whole = {
      name: np.concatenate([part[name] for part in jax.device_get(parts)], axis=1).astype(np.float64)
      for name in ("loss", "top1", "top5", "mask")
    }
    real = whole.pop("mask") > 0
    return [
      rounded({name: float(values[i][real[i]].mean()) for name, values in whole.items()})
      for i in range(self._group.size)
    ]


def _take_in(window, records, folders, failed, max_skipped) -> list[dict[str, float]]:
  """Gives each member's metrics to its record; returns the newest of each, and notes who failed."""
  rows = jax.device_get(window)
  window.clear()
  for number, record in enumerate(records):
    if number in failed:
      continue
    own = [{name: values[number] for name, values in row.items()} for row in rows]
    try:
      _, warnings = record.take_in(own, max_skipped)
    except RunFailed as error:
      failed[number] = error
      resume.note_failure(folders[number], error)
      warnings = [str(error)]
    for warning in warnings:
      say(f"run {number}: {warning}")
  return [{name: float(values[i]) for name, values in rows[-1].items()} for i in range(len(records))]


def _log(step, records, logs, newest, tests, failed) -> None:
  """Rows of metrics.jsonl for every member that has not failed."""
  for number, (record, log, row, test) in enumerate(zip(records, logs, newest, tests, strict=True)):
    if number in failed:
      continue
    log.write(step, "train", row)
    if test is not None:
      log.write(step, "mean", record.evaluated(test))
      log.write(step, "test", test)


def _means_line(newest, tests) -> str:
  train, test = _mean(newest), _mean(tests)
  top1 = report_lines.percent(test["top1"])
  return f"train loss {train['loss']:.4f}  test loss {test['loss']:.5f} top-1 {top1}"


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _results(group: Members, state, records, folders, progress, failed) -> list[dict | RunFailed]:
  params = jax.device_get(state.params)
  step_seconds = progress.median_step()
  results = []
  for number, (config, record, folder) in enumerate(zip(group.configs, records, folders, strict=True)):
    if number in failed:
      results.append(failed[number])
      continue
    own = jax.tree.map(lambda leaf, i=number: leaf[i], params)
    share = step_seconds / group.size if step_seconds else None
    result = result_of(own, record, share, config, group.pieces[0]) | {"vmapped_members": group.size}
    workdir_lib.write_once(folder / "result.json", json.dumps(result, indent=2) + "\n")
    results.append(result)
  return results

"""Several runs of equal shape in one compiled program: the step of one run under jax.vmap.

Each member has its own seed, data order, parameters and folder. What a member leaves is what its single run leaves,
apart from checkpoints: they are written at the end, when the program is interrupted, and every
config.checkpoint_every steps if that is set (not once per epoch, and so the best epoch's is not kept). Times are the
group's, divided by its members.
"""

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from convnn_jax import data
from convnn_jax.attention import settled
from convnn_jax.errors import RunFailed, UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training import report_lines
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.assemble import assemble, build, init_key
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.interrupt import Interruption
from convnn_jax.training.loop import result_of
from convnn_jax.training.metrics import Progress, Writer, rounded, say
from convnn_jax.training.record import RunRecord
from convnn_jax.training.state import TrainState
from convnn_jax.training.step import make_eval_step, make_train_step

# Numbers that can differ between members; below `model`, in attentions at any depth.
TRACED = ("seed", "optimizer.learning_rate", "optimizer.weight_decay", "loss.label_smoothing")
TRACED_IN_MODEL = ("regularization", "temperature")


def can_differ(field: str) -> bool:
  """Whether members may have different values of a field such as "model.attention.temperature"."""
  parts = field.split(".")
  return field in TRACED or (parts[0] == "model" and parts[-1] in TRACED_IN_MODEL)


def fixed_fields(config: ConfigDict) -> tuple:
  """What members of one program must have in common; equal for configs that pass `check_alike`."""
  flat = config_lib.flatten(_settled(config))
  return tuple(sorted((field, repr(value)) for field, value in flat.items() if not can_differ(field)))


def _settled(config: ConfigDict) -> dict:
  """The config as a dict, its attentions' choices made as in the single run."""
  tree = config.to_dict()
  if isinstance(attention := tree["model"].get("attention"), dict):
    tree["model"]["attention"] = settled(attention)
  return tree


def check_alike(configs: Sequence[ConfigDict]) -> list[str]:
  """Returns the fields in which the members differ.

  Raises:
    UserError: one of them cannot differ within a program; names all of these.
  """
  flat = [config_lib.flatten(_settled(config)) for config in configs]
  fields = sorted(set[str]().union(*flat))
  absent = object()
  differing = [f for f in fields if any(c.get(f, absent) != flat[0].get(f, absent) for c in flat)]
  if fixed := [f for f in differing if not can_differ(f)]:
    values = lambda field: ", ".join(dict.fromkeys(str(c.get(field, "absent")) for c in flat))
    shown = "; ".join(f"{field} ({values(field)})" for field in fixed)
    raise UserError(
      f"--vmap trains runs of one shape, which may differ in {', '.join(TRACED)} and, in attentions,"
      f" {' and '.join(TRACED_IN_MODEL)}. These differ in {shown}; leave out --vmap, or fix these fields."
    )
  return differing


class Members:
  """The compiled parts of a group.

  Attributes:
    pieces: of every member; what does not depend on the numbers is the first one's.
  """

  def __init__(self, configs: Sequence[ConfigDict]):
    """Checks every member as its single run would be; compiles nothing yet."""
    fields = check_alike(configs)
    self.configs, self.size = list(configs), len(configs)
    self.pieces = [assemble(config) for config in configs]
    if self.pieces[0].info.storage != "memory":
      raise UserError(
        f"--vmap needs images that lie on the device; '{self.pieces[0].info.name}' is read from disk in batches."
        " Leave out --vmap."
      )
    flat = [config_lib.flatten(config.to_dict()) for config in configs]
    self._values = {
      field: np.asarray([c[field] for c in flat], np.uint32 if field == "seed" else np.float32)
      for field in fields
    }
    if configs[0].init_from:
      raise UserError("--vmap trains from new parameters only; leave out --vmap or config.init_from.")
    if configs[0].steps_per_call > 1:
      raise UserError(
        f"--vmap trains step by step: config.steps_per_call={configs[0].steps_per_call} must be 1 with it."
      )
    # Members are independent: whole members go to devices, nothing is summed over them.
    count = max(d for d in range(1, jax.device_count() + 1) if self.size % d == 0)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("members",), axis_types=auto, devices=jax.devices()[:count])
    self.by_member = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("members"))
    self.everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self.values = jax.device_put(self._values, self.by_member)

  def _member(self, values):
    """(config, model, optimizer, schedule) with traced numbers."""
    first = self.pieces[0]
    tree = _settled(self.configs[0])
    for field, value in values.items():
      *parents, leaf = field.split(".")
      functools.reduce(lambda section, name: section[name], parents, tree)[leaf] = value
    config = ConfigDict(tree, type_safe=False)  # a traced number has another type
    return config, *build(config, first.info, first.steps_per_epoch, first.num_steps)

  def create_state(self) -> TrainState:
    """Initial states, one behind the other along a leading axis."""

    def create(values):
      config, model, optimizer, _ = self._member(values)
      seed = values.get("seed", self.configs[0].seed)
      shape, decay = self.pieces[0].info.image_shape, config.optimizer.ema_decay
      return TrainState.create(model, optimizer, init_key(seed), shape, decay)

    return jax.jit(self._vmap(create, 1), out_shardings=self.by_member)(self.values)

  def make_update(self):
    """Jitted (state, values, resident, batch) -> (state, metrics), everything but `resident` by member."""

    def update(state, values, resident, batch):
      config, model, optimizer, schedule = self._member(values)
      return make_train_step(model, optimizer, schedule, config, self.pieces[0].info)(state, resident, batch)

    return jax.jit(self._vmap(update, 2, None, 0), donate_argnums=0, out_shardings=self.by_member)

  def make_evaluate(self):
    """Jitted (variables, values, resident, batch) -> dict of [members b]; all see the same batch."""

    def evaluate(variables, values, resident, batch):
      config, model, _, _ = self._member(values)
      return make_eval_step(model, config, self.pieces[0].info)(variables, resident, batch)

    return jax.jit(self._vmap(evaluate, 2, None, None), out_shardings=self.by_member)

  def _vmap(self, function, by_member: int, *others):
    # axis_size: the values are empty when all members are equal.
    return jax.vmap(function, in_axes=(*(0,) * by_member, *others), axis_size=self.size)

  def batches(self, num_train: int, start_step: int):
    """Batches {"index": int32 [members b]}; each member's are those of its single run."""
    size = self.configs[0].batch_size
    per_epoch = num_train // size
    epoch, orders = None, None
    for step in itertools.count(start_step):
      if step // per_epoch != epoch:
        epoch = step // per_epoch
        by_seed = {seed: data.epoch_order(seed, epoch, num_train) for seed in {c.seed for c in self.configs}}
        orders = np.stack([by_seed[config.seed] for config in self.configs])
      begin = step % per_epoch * size
      yield {"index": jax.device_put(orders[:, begin : begin + size], self.by_member)}


def train_members(configs: Sequence[ConfigDict], workdirs: Sequence[str]) -> list[dict | RunFailed] | None:
  """Trains a group, each member in its folder, from the last step that all have saved.

  Returns:
    For each member the contents of its result.json, or why it failed; None if interrupted (and saved).

  Raises:
    UserError: a config or a folder cannot be used, or the configs differ in shape.
  """
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
  train, evaluate = on_device(dataset.train), _Evaluation(group, dataset.test, on_device(dataset.test))

  state, records = _restore_or_create(group, folders)
  start, total = records[0].step, pieces.num_steps
  failed: dict[int, RunFailed] = {}
  spent_before = records[0].seconds
  batches = group.batches(len(dataset.train), start)
  say("compiling the training step" + (f"; going on after step {start} of {total}" if start else ""))
  begun, ahead = time.perf_counter(), next(batches)
  update = group.make_update().lower(state, group.values, train, ahead).compile()
  say(f"compiled in {time.perf_counter() - begun:.1f} s")
  window = []
  with (
    contextlib.ExitStack() as stack,
    Progress(start, total, group.size * first.batch_size) as progress,
    Interruption() as interruption,
  ):
    for folder in folders:
      stack.enter_context(workdir_lib.only_run_in(folder))
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
      newest = _take_in(window, records, failed, first.max_skipped_updates)
      progress.mark(_mean(newest))
      tests = evaluate(state) if evaluating else [None] * group.size
      _log(step, records, logs, newest, tests, failed)
      if evaluating:
        epoch = (
          f"epoch {step / pieces.steps_per_epoch:g}/{first.num_epochs}  step {step}  mean of {group.size}:"
        )
        say(f"{epoch} {_means_line(newest, tests)}  {progress.speed(step)}")
      if saving:
        for record in records:
          record.seconds = spent_before + progress.seconds / group.size
        _save(state, records, folders, first.keep_checkpoints, failed, tests)
      if stopping:
        say(f"interrupted: step {step} of {total} is saved; the same command goes on from there")
        return None
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


def _take_in(window, records, failed, max_skipped) -> list[dict[str, float]]:
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


def _restore_or_create(group: Members, folders):
  """(state, records) of the last step that all members have saved, or of step 0."""
  steps = []
  for folder in folders:
    with Checkpoints(folder, mode="read") as checkpoints:
      steps.append(set(checkpoints.steps()))
  common = max(set.intersection(*steps), default=0)
  if not common:
    return group.create_state(), [RunRecord() for _ in folders]
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
  target = jax.tree.map(place, group.pieces[0].state_shapes)
  states, records = [], []
  for folder in folders:
    with Checkpoints(folder, mode="read") as checkpoints:
      _, items, meta = checkpoints.restore(target.checkpoint_items(), common)
    states.append(jax.device_get(target.with_checkpoint_items(items)))
    records.append(RunRecord.from_meta(meta))
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
  return jax.device_put(stacked, group.by_member), records


def _save(state, records, folders, keep, failed, tests) -> None:
  host = jax.device_get(state)
  for number, (record, folder, test) in enumerate(zip(records, folders, tests, strict=True)):
    if number in failed:
      continue
    items = jax.tree.map(lambda leaf, i=number: jax.device_put(leaf[i]), host).checkpoint_items()
    with Checkpoints(folder, keep=keep) as checkpoints:
      metric = None if test is None else test["top1"]
      checkpoints.save(record.step, items, record.to_meta(), metric=metric, finish="now")


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

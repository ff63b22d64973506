"""The training loop: everything that happens in a run, in order, on one page."""

import itertools
import json
import os
import time

import jax

from convnn_jax import data
from convnn_jax.training import chunks, init_from, report_lines, sharding, summary
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.assemble import Pieces, assemble
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.evaluate import Evaluator
from convnn_jax.training.interrupt import Interruption
from convnn_jax.training.metrics import Progress, Writer, say
from convnn_jax.training.profiling import Profiler
from convnn_jax.training.record import RunRecord
from convnn_jax.training.step import make_train_step


def train(config, workdir: str | os.PathLike, *, profile_steps: int = 0) -> dict | None:
  """Trains what `config` describes in `workdir`, from the last checkpoint there if there is one.

  Args:
    config: a completed config (training/config.py).
    workdir: folder of the run; see training/workdir.py.
    profile_steps: so many steps are traced into workdir/profile; 0 = none.

  Returns:
    The contents of result.json, or None if the run was interrupted (it is saved then).

  Raises:
    UserError: the config, the data or the workdir cannot be used.
    RunFailed: too many non-finite updates in a row.
  """
  # 1. Pieces, all checked; the data; then the folder, which belongs to the config from here on.
  pieces = assemble(config)
  start_from = None if workdir_lib.has_begun(workdir) else init_from.plan(config, pieces)
  dataset = data.open_dataset(config.data)
  folder = workdir_lib.open_workdir(workdir, config)
  by_batch = sharding.batch_sharding(pieces.mesh)
  resident = data.resident(dataset.train, by_batch)
  evaluate = Evaluator(pieces, config, dataset.test, data.resident(dataset.test, by_batch))
  _print(report_lines.start(config, pieces, folder))
  workdir_lib.write_once(folder / "model.txt", report_lines.model_text(config, pieces))

  with (
    workdir_lib.only_run_in(folder),
    Checkpoints(folder, keep=config.keep_checkpoints) as checkpoints,
    Interruption() as interruption,
  ):
    # 2. State: new, or the last checkpoint's.
    state, record = restore_or_create(pieces, checkpoints, start_from)
    start, total = record.step, pieces.num_steps
    finished = workdir_lib.read_result(folder, report_lines.NUMBERS)
    if start == total and finished:
      _print(["this run is complete", *report_lines.end(finished, folder)])
      return finished
    _print([f"going on after step {start} of {total}"] if start else [])
    if finished and jax.process_index() == 0:  # of a run whose last checkpoint is gone or damaged
      _print([f"an earlier result.json is kept as {workdir_lib.set_aside(folder / 'result.json').name}"])

    # 3. Steps. The step number alone decides data order, augmentation and dropout, so a resumed run ends bit
    #    for bit where the uninterrupted one ends (tests/test_commands.py).
    window = []  # (steps, metrics) since the device was last waited for
    spent_before = record.seconds
    # Simulated devices share few threads: steps in flight can wait for one another's sums for ever.
    one_at_a_time = jax.default_backend() == "cpu" and jax.device_count() > 1
    profiler = Profiler(folder / "profile", start, profile_steps)
    plan, batches = _steps_and_batches(config, pieces, dataset.train, by_batch, start, profiler.ends)
    update, batches = _compile(make_update(pieces, config), state, resident, batches)
    with Progress(start, total, config.batch_size) as progress, Writer(folder, start) as log, profiler:
      for steps, batch in zip(plan, batches, strict=False):  # one step, unless config.steps_per_call > 1
        profiler.before(steps[0])
        state, metrics = update(state, resident, batch)
        if one_at_a_time:
          jax.block_until_ready(metrics)
        profiler.after(step := steps[-1], metrics)
        window.append((steps, metrics))
        progress.step(len(steps))

        due = lambda every, step=step: step % (every or pieces.steps_per_epoch) == 0 or step == total
        evaluating, logging = due(config.eval_every), due(config.log_every)
        # Step by step: several processes agree on the number of one.
        stopping = any(interruption.agreed(each, checkpoints) for each in steps) and step < total
        saving = due(config.checkpoint_every) or stopping
        if logging or evaluating or saving:
          newest, warnings = record.take_in(chunks.by_step(window), config.max_skipped_updates)
          window.clear()
          progress.mark(newest)
          _print(warnings)
          log.write(step, "train", newest)
        if evaluating:
          test = evaluate(_variables(state))
          means = record.evaluated(test)
          log.write(step, "mean", means)
          log.write(step, "test", test)
          speed = progress.speed(step)
          _print([report_lines.evaluation(step, pieces, config, means, test, speed)])
        if saving:
          record.seconds = spent_before + progress.seconds
          metric = test["top1"] if evaluating else None
          finish = "now" if stopping else "later"
          items = state.checkpoint_items()
          checkpoints.save(step, items, record.to_meta(), metric=metric, finish=finish)
        if stopping:
          _print([f"interrupted: step {step} of {total} is saved; the same command goes on from there"])
          return None
        if evaluating or saving:
          progress.restart_clock()

  # 4. Result.
  if record.last_test is None or record.last_test["step"] != total:
    record.evaluated(evaluate(_variables(state)))
  result = result_of(state.params, record, progress.median_step(), config, pieces)
  workdir_lib.write_once(folder / "result.json", json.dumps(result, indent=2) + "\n")
  _print(report_lines.end(result, folder))
  return result


def restore_or_create(pieces: Pieces, checkpoints: Checkpoints, start_from=None):
  """(state, record) of the last checkpoint, or of step 0, which may start from other parameters (init_from.plan)."""
  restored = checkpoints.restore(pieces.state_shapes.checkpoint_items())
  if restored is None and start_from is not None:
    _print(start_from.lines)
    return init_from.started(pieces.create_state(), start_from, pieces), RunRecord()
  if restored is None:
    return pieces.create_state(), RunRecord()
  _, items, meta = restored
  return pieces.state_shapes.with_checkpoint_items(items), RunRecord.from_meta(meta)


def make_update(pieces: Pieces, config):
  """The jitted update; the old state's memory is given to the new one."""
  step = make_train_step(pieces.model, pieces.optimizer, pieces.schedule, config, pieces.info)
  if config.steps_per_call > 1:
    step = chunks.several(step)
  layout = jax.tree.map(lambda leaf: leaf.sharding, pieces.state_shapes)
  return jax.jit(step, donate_argnums=0, out_shardings=(layout, sharding.replicated(pieces.mesh)))


def _steps_and_batches(config, pieces: Pieces, split, by_batch, start: int, ends):
  """Ranges of steps, one per call of the update, and what the update takes for each."""
  common = dict(seed=config.seed, batch_size=config.batch_size, sharding=by_batch)
  if config.steps_per_call == 1:
    plan = (range(step, step + 1) for step in range(start + 1, pieces.num_steps + 1))
    return plan, data.train_batches(split, start_step=start, **common)
  every = (config.log_every, config.eval_every, config.checkpoint_every)
  periods = [number or pieces.steps_per_epoch for number in every]
  plan = list(chunks.plan(start, pieces.num_steps, config.steps_per_call, periods, ends))
  ranges = plan or [range(start, start + 1)]  # of a run that lacks its result only
  return plan, data.train_chunks(split, chunks=ranges, size=max(map(len, ranges)), **common)


def _compile(update, state, resident, batches):
  """The compiled update and the untouched batches; said aloud, since it can take a minute."""
  _print(["compiling the training step"])
  begun = time.perf_counter()
  first = next(batches)
  compiled = update.lower(state, resident, first).compile()
  _print([f"compiled in {time.perf_counter() - begun:.1f} s"])
  return compiled, itertools.chain([first], batches)


def _variables(state) -> dict:
  return {"params": state.evaluated_params, **state.collections}


def _print(lines: list[str]) -> None:
  if jax.process_index() == 0:
    for line in lines:
      say(line)


def result_of(params, record: RunRecord, step_seconds: float | None, config, pieces: Pieces) -> dict:
  """Contents of result.json."""
  test = record.last_test
  return {
    "test_top1": test["top1"],
    "test_top5": test["top5"],
    "test_loss": test["loss"],
    "best_test_top1": record.best_top1,
    "best_epoch": round(record.best_step / pieces.steps_per_epoch, 2),
    "epochs": config.num_epochs,
    "steps": pieces.num_steps,
    "num_params": pieces.num_params,
    "flops_per_image": pieces.flops_per_image(),
    "train_seconds": round(record.seconds, 3),
    "step_ms_median": round(1e3 * step_seconds, 4) if step_seconds else None,
    "images_per_second": round(config.batch_size / step_seconds, 1) if step_seconds else None,
    "skipped_updates": record.skipped,
    "params_digest": summary.digest(params),
    "seed": config.seed,
    **workdir_lib.environment(),
  }

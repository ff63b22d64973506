"""What models cost: parameters, FLOPs, memory, time to compile, to answer and to train.

    python -m convnn_jax.report.cost --config=configs/vit_softmax.py --config=configs/convnn_k9.py --batch=1,64
    python -m convnn_jax.report.cost --config=configs/convnn_k9.py:digits --batch=1000 --out=reports/cost

Random images, initial parameters. Every call is awaited (jax.block_until_ready), after two calls to warm up; the median
of --repeats calls and, as spread, the quarter and three-quarter points are given. --config.FIELD=VALUE applies to
all configs.
"""

import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convnn_jax import cli
from convnn_jax.errors import UserError
from convnn_jax.report.rows import Column, digits, fresh_folder, markdown, write_table
from convnn_jax.training import config as config_lib
from convnn_jax.training import exchange, sharding
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.assemble import assemble
from convnn_jax.training.loop import make_update
from convnn_jax.training.metrics import say

WARM_UP = 2
ABOUT_TIMES = """\
Latency is the time from the call to the finished result, copying of images left out. Published "average inference
times" are often taken with a clock around model(batch) alone. On a GPU that call returns when its kernels are queued,
so such a figure is the time the host needs to queue them: it grows with the number of layers, hardly with their width
or with the batch, and holds the first calls, which initialise. Those of the attention study (docs/published) are of
this kind: batches of 1000, on an unnamed machine. They cannot be compared with the figures here."""

COLUMNS = (
  Column("config", "config"),
  Column("batch", "batch", digits(0)),
  Column("num_params", "parameters", digits(0)),
  Column("flops_per_image", "MFLOP per image", digits(2, 1e-6)),
  Column("temp_mb", "activations MB", digits(1)),
  Column("compile_s", "compile s", digits(1)),
  Column("latency_ms", "latency ms", digits(2)),
  Column("latency_low_ms", "25 %", digits(2)),
  Column("latency_high_ms", "75 %", digits(2)),
  Column("images_per_second", "images/s", digits(0)),
  Column("step_ms", "training step ms", digits(2)),
  Column("step_low_ms", "25 %", digits(2)),
  Column("step_high_ms", "75 %", digits(2)),
  Column("step_temp_mb", "step's memory MB", digits(1)),
  Column("step_compile_s", "compile s", digits(1)),
)


def main(argv: Sequence[str]) -> None:
  """Parses flags, measures config by config, prints and writes the table."""
  args, words = _parse(argv)
  batches = _batches(args.batch)
  loaded = [(path, config_lib.load(path, words)) for path in args.config]
  prepared = []
  for path, config in loaded:
    with exchange.explaining(path, words):
      prepared.append((config_lib.name_of(path), _prepare(config, batches)))
  folder = fresh_folder(args.out, args.out) if args.out else None
  rows = []
  for name, (config, pieces) in prepared:
    for batch in batches:
      say(f"measuring {name}, batch {batch}")
      row = {"config": name, "batch": batch, "num_params": pieces.num_params}
      row["flops_per_image"] = pieces.flops_per_image()
      row |= inference(config, pieces, batch, args.repeats)
      if args.training == "yes":
        row |= training(config, pieces, batch, args.repeats)
      rows.append(row)
  heading = f"{_machine()}; median of {args.repeats} calls, spread between quarters.\n\n{ABOUT_TIMES}"
  say(f"\n{markdown(COLUMNS, rows)}\n\n{heading}")
  if folder:
    write_table(folder, "cost", COLUMNS, rows, heading)
    say(f"\nwritten to {folder}")


def _parse(argv):
  parser = cli.Parser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--config", action="append", required=True, help="FILE.py or FILE.py:DATA; may be repeated"
  )
  parser.add_argument("--batch", default="1,64", help="numbers of images, such as 1,64,1000")
  parser.add_argument("--repeats", type=int, default=20, help="measured calls of each kind")
  parser.add_argument("--training", choices=("yes", "no"), default="yes", help="measure a training step too")
  parser.add_argument("--out", default="", help="new folder for cost.md, cost.csv; default: print only")
  args, words = parser.parse_known_args(argv)
  if args.repeats < 1:
    raise UserError(f"--repeats={args.repeats} must be at least 1.")
  return args, words


def _batches(text: str) -> list[int]:
  words = [word.strip() for word in text.split(",")]
  if not all(word.isascii() and word.isdigit() and int(word) for word in words):
    raise UserError(f"--batch={text} must be numbers of images, such as 1,64,1000.")
  return [int(word) for word in words]


def _prepare(config, batches):
  """(config, pieces) on one device, whatever the config's mesh; without accumulation, chunks of steps, mixed pairs."""
  with config.unlocked():
    config.data.augment = tuple(word for word in config.data.augment if word not in ("mixup", "cutmix"))
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    config.optimizer.accumulate = 1
    config.steps_per_call = 1
    config.batch_size = jax.device_count()
  return config, assemble(config)


def inference(config, pieces, batch: int, repeats: int) -> dict:
  """Cost of the forward pass in evaluation mode on one device.

  temp_mb: what the program needs beside its arguments and results; peak of activations alive at a time.
  """
  params = jax.device_get(pieces.create_state())
  variables = jax.device_put({"params": params.params, **params.collections}, jax.devices()[0])
  rng = np.random.default_rng(0)
  images = rng.standard_normal((batch, *pieces.info.image_shape), np.float32)
  images = jax.device_put(jnp.asarray(images), jax.devices()[0])
  compiled, seconds = _compile(jax.jit(functools.partial(pieces.model.apply, train=False)), variables, images)
  times = measure(lambda: compiled(variables, images), repeats)
  return {
    "temp_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6,
    "compile_s": seconds,
    **_spread("latency", times),
    "images_per_second": batch / statistics.median(times),
  }


def training(config, pieces, batch: int, repeats: int) -> dict:
  """Cost of an optimiser step: augmentation, forward, backward, update; over all devices. {} if they do not fit."""
  by_batch = sharding.batch_sharding(pieces.mesh)
  if batch % sharding.batch_shards(pieces.mesh):
    return {}
  rng = np.random.default_rng(0)
  source = (batch, *pieces.info.source_shape)
  images = rng.integers(0, 256, source, dtype=np.uint8)
  labels = rng.integers(0, pieces.info.num_classes, batch, dtype=np.int32)
  resident, data = {}, {"image": jax.device_put(images, by_batch), "label": jax.device_put(labels, by_batch)}
  state = pieces.create_state()
  update, seconds = _compile(make_update(pieces, config), state, resident, data)

  def step():
    nonlocal state
    state, metrics = update(state, resident, data)
    return metrics

  times = measure(step, repeats)
  return {
    **_spread("step", times),
    "step_temp_mb": update.memory_analysis().temp_size_in_bytes / 1e6,
    "step_compile_s": seconds,
  }


def measure(function: Callable, repeats: int) -> list[float]:
  """Seconds of `repeats` awaited calls, after some that are not counted."""
  times = []
  for number in range(WARM_UP + repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    if number >= WARM_UP:
      times.append(time.perf_counter() - start)
  return times


def _compile(function, *args):
  start = time.perf_counter()
  compiled = function.lower(*args).compile()
  return compiled, time.perf_counter() - start


def _spread(name: str, times: list[float]) -> dict[str, float]:
  low, middle, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
  return {f"{name}_ms": 1e3 * middle, f"{name}_low_ms": 1e3 * low, f"{name}_high_ms": 1e3 * high}


def _machine() -> str:
  where = workdir_lib.environment()
  cores = f", {os.cpu_count()} cores" if jax.default_backend() == "cpu" else ""
  return f"{where['num_devices']} x {where['device']}{cores}, jax {where['versions']['jax']}, commit {where['commit']}"


if __name__ == "__main__":
  sys.exit(cli.run(main, sys.argv[1:]))

"""Command lines of train.py, eval.py and the reports: flags in, one call, exit code out.

Exit codes: 0 done or interrupted (and saved), 1 the run failed, 2 a user mistake (one line on standard error).
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence

from convnn_jax import host_memory
from convnn_jax.errors import RunFailed, UserError


class Parser(argparse.ArgumentParser):
  """Errors as one line, without the usage text."""

  def __init__(self, **kwargs):
    """Flags in full only, defaults in the help."""
    kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
    super().__init__(allow_abbrev=False, **kwargs)

  def error(self, message):
    raise UserError(f"{message}. See --help.")


def _parser(description: str) -> Parser:
  epilog = "Fields of the config are set by --config.FIELD=VALUE; configs/base.py documents them all."
  parser = Parser(description=description, epilog=epilog)
  group = parser.add_argument_group("several processes (TPU pods and SLURM are detected)")
  group.add_argument(
    "--distributed", choices=("auto", "on", "off"), default="auto", help="join other processes"
  )
  group.add_argument("--coordinator", default="", help="host:port of process 0")
  group.add_argument("--num_processes", type=int, default=-1, help="with --coordinator")
  group.add_argument("--process_id", type=int, default=-1, help="with --coordinator")
  return parser


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
  """Calls the command; returns the exit code."""
  keep_memory_on_cpu()
  # Outside the training loop, which has its own handlers, there is nothing to save.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _stop_at_once)
  try:
    command(argv)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return 2
  except RunFailed as error:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return 1
  except KeyboardInterrupt:  # a second Ctrl-C in the training loop
    print("stopped at once; the last checkpoint is kept", file=sys.stderr)  # noqa: T201
    return 130
  except BrokenPipeError:
    # Such as `| head`. What Python has not written yet goes nowhere, without an error of its own at the exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print("error: stopped, as standard output was closed; files written before are kept", file=sys.stderr)  # noqa: T201
    return 1
  return 0


def _stop_at_once(number, frame):
  # Not an exception: raised inside a library's callback it would be swallowed, and the run would go on.
  del number, frame
  os.write(2, b"stopped; the same command starts again\n")
  os._exit(0)


def _start(args) -> None:
  # TensorFlow's and XLA's start-up messages are noise; errors still come through.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  from convnn_jax.training import distributed

  distributed.initialize(args.distributed, args.coordinator, args.num_processes, args.process_id)


def keep_memory_on_cpu() -> None:
  """Where CPUs compute: what one step frees stays for the next one. For programs, before anything is computed."""
  if host_memory.only_cpus_compute():
    host_memory.keep_freed_memory()


def train(argv: Sequence[str]) -> None:
  """train.py --config=FILE[:ARGUMENT] [--workdir=DIR] [--config.FIELD=VALUE ...]."""
  parser = _parser("Trains what a config describes; the same command goes on after an interruption.")
  parser.add_argument("--config", required=True, help="configs/NAME.py or configs/NAME.py:DATA")
  parser.add_argument("--workdir", default="", help="folder of the run; default runs/NAME[-DATA]")
  parser.add_argument("--profile", type=int, default=0, help="trace so many steps into WORKDIR/profile")
  args, rest = parser.parse_known_args(argv)
  if args.profile < 0:
    raise UserError(f"--profile={args.profile} must be a number of steps, 0 for none.")

  from convnn_jax.training import config as config_lib
  from convnn_jax.training import exchange

  config = config_lib.load(args.config, rest)
  _start(args)
  from convnn_jax.training.loop import train as train_loop

  workdir = args.workdir or os.path.join("runs", config_lib.name_of(args.config))
  with exchange.explaining(args.config, rest):
    train_loop(config, workdir, profile_steps=args.profile)


def evaluate(argv: Sequence[str]) -> None:
  """eval.py --workdir=DIR [--step=last|best|N] [--config.FIELD=VALUE ...]."""
  parser = _parser("Evaluates a run's checkpoint on the test set; prints one line of JSON.")
  parser.add_argument("--workdir", required=True, help="folder of the run")
  parser.add_argument("--step", default="last", help="last, best, or a step number")
  args, rest = parser.parse_known_args(argv)
  number = args.step.isascii() and args.step.isdigit()
  if args.step not in ("last", "best") and not number:
    raise UserError(f"--step={args.step} must be last, best or a step number.")
  step = int(args.step) if number else args.step

  _start(args)
  from convnn_jax.training import config as config_lib
  from convnn_jax.training import workdir as workdir_lib
  from convnn_jax.training.restore import evaluate_checkpoint

  folder, config = workdir_lib.load_config(args.workdir)
  result = evaluate_checkpoint(folder, config_lib.override(config, rest), step)
  print(json.dumps(result), flush=True)  # noqa: T201

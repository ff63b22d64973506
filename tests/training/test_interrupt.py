"""Signals: one process finishes its step and saves; several agree on the step."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.interrupt import Interruption


def handlers():
  return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_asks_and_handlers_are_put_back(number, capfd):
  before = handlers()
  with Interruption() as interruption:
    assert not interruption.requested
    assert not interruption.agreed(1, None)
    signal.raise_signal(number)
    assert interruption.requested
    assert interruption.agreed(2, None)
    signal.raise_signal(signal.SIGTERM)  # a repeated one changes nothing
    assert handlers() != before
  assert handlers() == before
  assert capfd.readouterr().err == "Interrupted: finishing this step, then saving.\n"


def test_second_interrupt_ends_at_once():
  before = handlers()
  with Interruption():
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert handlers() == before


def test_elsewhere_than_in_the_main_thread_nothing_is_changed():
  seen = []

  def work():
    with Interruption() as interruption:
      seen.append((handlers(), interruption.requested))

  before = handlers()
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(before, False)]


# A run of one or more processes: argv is workdir, process, number of processes, port.
RUN = """
import sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

workdir, process, num_processes, port = sys.argv[1], *map(int, sys.argv[2:])
if num_processes > 1:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"localhost:{port}", num_processes=num_processes, process_id=process)

from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.interrupt import Interruption

mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
# Noise does not compress: every process writes its part into a file of its own.
noise = lambda: jax.random.normal(jax.random.key(0), (8, 1000))
init = jax.jit(lambda: {"params": {"x": jnp.zeros(8), "noise": noise()}}, out_shardings=sharding)
update = jax.jit(lambda items: {"params": {**items["params"], "x": items["params"]["x"] + 1}})
target = jax.tree.map(
  lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(init)
)
with Checkpoints(workdir) as checkpoints, Interruption() as interruption:
  restored = checkpoints.restore(target)
  start, items = restored[:2] if restored else (0, init())
  # Every number of x is the step it was saved at.
  wrong = jax.jit(lambda x: jnp.abs(x - start).max())(items["params"]["x"])
  print("start", start, float(wrong), flush=True)
  for step in range(start + 1, start + 2000):
    items = update(items)
    time.sleep(0.02)
    if step % 500 == 0:
      checkpoints.save(step, items, {"step": step})
    if step == start + 3:
      print("running", flush=True)
    if interruption.agreed(step, checkpoints):
      checkpoints.save(step, items, {"step": step}, finish="now")
      print("saved", step, flush=True)
      break
if num_processes > 1:
  jax.distributed.shutdown()
"""


def start(workdir, num_processes=1):
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  flags = f"--xla_force_host_platform_device_count={8 // num_processes}"
  return [
    subprocess.Popen(
      [sys.executable, "-c", RUN, str(workdir), str(process), str(num_processes), str(port)],
      env={**os.environ, "XLA_FLAGS": flags},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(num_processes)
  ]


def finish(processes):
  """(exit code, lines of standard output, standard error) of every process."""
  try:
    outputs = [process.communicate(timeout=90) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [
    (process.returncode, out.splitlines(), err)
    for process, (out, err) in zip(processes, outputs, strict=True)
  ]


def until_running(process):
  """The line that says where the process started, after waiting for its third step."""
  lines = []
  while not lines or lines[-1] != "running":
    line = process.stdout.readline()
    assert line, process.stderr.read()
    if line.startswith(("start", "running")):
      lines.append(line.strip())
  return lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_ends_saved(tmp_path, number):
  (process,) = processes = start(tmp_path)
  until_running(process)
  process.send_signal(number)
  ((code, lines, err),) = finish(processes)
  assert (code, len(lines)) == (0, 1), err
  step = int(lines[0].removeprefix("saved "))
  assert "finishing this step" in err
  with Checkpoints(tmp_path, mode="read") as checkpoints:
    assert checkpoints.latest() == step


def run_until_told(workdir, told):
  """Runs two processes, sends SIGTERM to `told`; returns where they started, saved, and stderr."""
  processes = start(workdir, num_processes=2)
  starts = [until_running(process) for process in processes]
  for number in told:
    processes[number].send_signal(signal.SIGTERM)
    time.sleep(0.1)
  results = finish(processes)
  assert [code for code, _, _ in results] == [0, 0], results
  saved = [[line for line in lines if line.startswith("saved")] for _, lines, _ in results]
  assert starts[0] == starts[1]
  assert saved[0] == saved[1]
  return starts[0], int(saved[0][0].removeprefix("saved ")), [err for _, _, err in results]


@pytest.mark.slow
@pytest.mark.parametrize("told", [[0], [1], [0, 1]])
def test_two_processes_agree_on_the_step(tmp_path, told):
  begin, step, errors = run_until_told(tmp_path, told)
  assert begin == "start 0 0.0"
  assert "finishing this step" in errors[0]
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(step)]


@pytest.mark.slow
def test_two_processes_go_on_from_the_same_step_when_one_cannot_read_its_part(tmp_path):
  _, first, _ = run_until_told(tmp_path, [0])
  begin, second, _ = run_until_told(tmp_path, [1])
  assert begin == f"start {first} 0.0"
  params = tmp_path / "checkpoints" / str(second) / "params"
  parts = [path for path in (params / "ocdbt.process_1" / "d").iterdir() if path.is_file()]
  assert parts
  for path in parts:  # what only process 1 reads
    path.write_bytes(path.read_bytes()[:10])
  begin, third, errors = run_until_told(tmp_path, [0])
  assert begin == f"start {first} 0.0"
  assert ["another process cannot read it" in err for err in errors] == [True, False]
  assert (tmp_path / "checkpoints" / f"damaged-{second}").is_dir()
  begin, _, _ = run_until_told(tmp_path, [1])
  assert begin == f"start {third} 0.0"

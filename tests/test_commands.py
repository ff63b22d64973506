"""train.py and eval.py as a user runs them: output, exit codes, resuming, several devices and processes."""

import json
import pathlib
import random
import re
import signal
import socket
import time

import pytest
from commands import result, run, start

ROOT = pathlib.Path(__file__).parents[1]
SMALL = [
  "--config=configs/convnn_k9.py:digits",
  "--config.model.width=16",
  "--config.model.depth=1",
  "--config.model.mlp_dim=16",
  "--config.model.patch_size=4",
  "--config.model.attention.num_neighbors=3",
  "--config.batch_size=128",
  "--config.eval_batch_size=100",
  "--config.num_epochs=4",
  "--config.optimizer.warmup_epochs=1.0",
]
# What Gloo prints of its connections, piece by piece: its threads write into each other's lines.
GLOO = re.compile(
  r"\[Gloo\] Rank |\d+| is connected to | peer ranks\. |Expected number of connected peer ranks is : |\s+"
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
  """An uninterrupted run: (workdir, its standard output)."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  out, _ = run("train.py", *SMALL, f"--workdir={workdir}")
  return workdir, out


def test_a_run_leaves_what_it_promises(whole_run):
  workdir, out = whole_run
  names = {path.name for path in workdir.iterdir()}
  assert {"config.json", "model.txt", "metrics.jsonl", "checkpoints", "result.json"} <= names
  assert any(name.startswith("events.out.tfevents") for name in names)
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if row["part"] == "test"] == [11, 22, 33, 44]
  assert sum(line.startswith("epoch ") for line in out.splitlines()) == 4
  final = result(workdir)
  promised = (
    "test_top1 test_top5 test_loss best_test_top1 best_epoch num_params flops_per_image train_seconds"
    " step_ms_median images_per_second params_digest device num_devices versions commit seed"
  )
  assert set(promised.split()) <= final.keys()
  assert 0 <= final["test_top1"] <= final["test_top5"] <= 1
  assert "total" in (workdir / "model.txt").read_text()
  assert f"{final['num_params']:,}" in (workdir / "model.txt").read_text()


@pytest.mark.parametrize("devices", [1, 8])
def test_eval_prints_the_last_line_of_training_digit_for_digit(whole_run, devices):
  workdir, out = whole_run
  json_line = run("eval.py", f"--workdir={workdir}", devices=devices)[0].splitlines()[-1]
  figures = json.loads(json_line)
  assert out.splitlines()[-1] == f"test top1 {figures['top1']} loss {figures['loss']}"
  assert figures["num_examples"] == 360
  assert figures["step"] == 44
  assert figures["images_per_second"] > 0
  assert result(workdir)["test_loss"] == figures["loss"]


def test_eval_of_the_best_and_of_a_numbered_step(whole_run):
  workdir, _ = whole_run
  best = json.loads(run("eval.py", f"--workdir={workdir}", "--step=best")[0].splitlines()[-1])
  assert best["top1"] == result(workdir)["best_test_top1"]
  last = json.loads(run("eval.py", f"--workdir={workdir}", "--step=44")[0].splitlines()[-1])
  assert last["top1"] == result(workdir)["test_top1"]


def test_a_finished_run_is_not_touched(whole_run):
  workdir, _ = whole_run
  before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
  out, _ = run("train.py", *SMALL, f"--workdir={workdir}")
  assert "complete" in out
  assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_config_in_the_same_folder_is_refused(whole_run):
  workdir, _ = whole_run
  _, err = run("train.py", *SMALL, f"--workdir={workdir}", "--config.seed=1", expect=2)
  assert "seed: 42 -> 1" in err
  assert_one_line(err)


def test_killed_and_terminated_runs_end_bit_for_bit_like_the_whole_one(whole_run, tmp_path):
  workdir = tmp_path / "parts"
  command = ("train.py", *SMALL, f"--workdir={workdir}")
  random.seed(time.time_ns())  # another moment each time
  for number in (signal.SIGKILL, signal.SIGTERM):
    process = start(*command)
    _wait_for_steps(process, workdir)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    if number == signal.SIGTERM and not (workdir / "result.json").exists():
      assert process.returncode == 0, err
      assert "the same command" in out + err
  run(*command)
  whole, parts = result(whole_run[0]), result(workdir)
  for name in ("params_digest", "test_top1", "test_loss", "best_test_top1", "best_epoch"):
    assert parts[name] == whole[name], name
  for part in ("test", "mean"):
    assert _rows(workdir, part) == _rows(whole_run[0], part)


def _wait_for_steps(process, workdir):
  """Returns when a checkpoint of this process is there, or it has ended."""
  seen = _newest(workdir)
  while process.poll() is None and _newest(workdir) == seen:
    time.sleep(0.02)


def _newest(workdir):
  folders = (workdir / "checkpoints").glob("*") if workdir.exists() else ()
  return max((int(f.name) for f in folders if f.name.isdigit()), default=0)


def _rows(workdir, part):
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [row for row in rows if row["part"] == part]


def assert_one_line(err):
  assert err.startswith("error: ")
  assert len(err.strip().splitlines()) == 1
  assert "Traceback" not in err


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.model.attention.num_neighbors=1000"], "num_neighbors=1000 must lie in"),
    (["--config.modle.x=1"], "Did you mean 'model'"),
    (["--config.optimizer.lr=1"], "Did you mean 'learning_rate'"),
    (["--workdir=/proc/nothing/here"], "--workdir=/proc/nothing/here cannot be used"),
    (["--wordkir=x"], "Unknown argument '--wordkir=x'"),
    (["--num_processes=2"], "need --coordinator"),
    (["--profile=-1"], "--profile=-1 must be"),
    (["--distributed=maybe"], "invalid choice: 'maybe'"),
  ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(args, message, tmp_path):
  out, err = run("train.py", *SMALL, f"--workdir={tmp_path}/run", *args, expect=2)
  assert message in err
  assert_one_line(err)
  assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_fit_the_devices(tmp_path):
  args = ("--config.batch_size=100", f"--workdir={tmp_path}/run")
  _, err = run("train.py", *SMALL, *args, expect=2, devices=8)
  assert "batch_size=100 must be divisible by the 8 devices" in err
  assert_one_line(err)


def test_unprepared_data_are_named_within_seconds(tmp_path):
  began = time.monotonic()
  env = {"TFDS_DATA_DIR": str(tmp_path / "empty")}
  _, err = run("train.py", "--config=configs/convnn_k9.py", f"--workdir={tmp_path}/run", expect=2, env=env)
  assert time.monotonic() - began < 20
  for word in ("python -m convnn_jax.data.prepare cifar10", "--manual_dir", ":digits"):
    assert word in err
  assert_one_line(err)


def test_eval_without_a_run(tmp_path):
  _, err = run("eval.py", f"--workdir={tmp_path}", expect=2)
  assert "holds no run" in err
  assert_one_line(err)


def test_a_closed_standard_output_ends_with_one_line(whole_run):
  process = start("train.py", *SMALL, f"--workdir={whole_run[0]}")  # would say that this run is complete
  process.stdout.close()
  with process.stderr:
    assert_one_line(process.stderr.read())
  assert process.wait() == 1


def test_a_run_that_diverges_ends_with_exit_code_1(tmp_path):
  args = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.name=sgd", "--config.log_every=1")
  args += ("--config.optimizer.clip_norm=0.0", "--config.max_skipped_updates=3", f"--workdir={tmp_path}/run")
  out, err = run("train.py", *SMALL, *args, expect=1)
  assert "the update is left out" in out
  assert "Stopped at step" in err
  assert_one_line(err)


@pytest.mark.slow
def test_two_processes_train_as_one_and_one_restores(whole_run, tmp_path):
  """Two processes of four devices each: the losses of one process, one checkpoint that one process restores."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  workdir = tmp_path / "two"
  processes = [
    start(
      "train.py",
      *SMALL,
      f"--workdir={workdir}",
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={i}",
      devices=4,
    )
    for i in range(2)
  ]
  outs = [process.communicate(timeout=300) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outs
  assert GLOO.sub("", outs[1][0]) == ""  # the first process speaks
  losses = [row["loss"] for row in _rows(workdir, "train")]
  expected = [row["loss"] for row in _rows(whole_run[0], "train")]
  assert losses == pytest.approx(expected, abs=1e-5)
  figures = json.loads(run("eval.py", f"--workdir={workdir}")[0].splitlines()[-1])
  assert figures["top1"] == result(workdir)["test_top1"]
  assert figures["loss"] == result(workdir)["test_loss"]

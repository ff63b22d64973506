"""The sweep command as a user runs it."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from convnn_jax.errors import RunFailed, UserError
from convnn_jax.report import jobs, sweep
from convnn_jax.report.points import Point
from convnn_jax.training import members

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "--config=tests/report/small_sweep.py"
NAMES = ["points/temperature=0.5-seed=0", "points/temperature=0.5-seed=1", "points/temperature=2.0-seed=0"]
NAMES += [
  "points/temperature=2.0-seed=1",
  "baseline/attention=softmax-seed=0",
  "baseline/attention=softmax-seed=1",
]


def small_sweep(folder, points: str, name: str = "points.py") -> str:
  """The flag --config of a sweep of other points."""
  file = folder / name
  text = (ROOT / "tests/report/small_sweep.py").read_text()
  file.write_text(f"{text}\n\ndef sweep():\n  return {points}\n")
  return f"--config={file}"


def fake_train(calls, fails=()):
  def train(config, folder):
    folder = pathlib.Path(folder)
    calls.append(f"{folder.parent.name}/{folder.name}")
    if calls[-1] in fails:
      raise fails[calls[-1]]
    from convnn_jax.training import config as config_lib

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(config))
    top1 = 0.5 + 0.1 * config.seed
    result = dict(test_top1=top1, best_test_top1=top1, test_loss=1.0, test_top5=1.0, train_seconds=1.0)
    (folder / "result.json").write_text(json.dumps({**result, "num_params": 7, "best_epoch": 1.0}))
    return result

  return train


def test_finished_points_are_not_run_again_and_failures_do_not_stop_the_rest(tmp_path, monkeypatch):
  from convnn_jax.errors import RunFailed
  from convnn_jax.training import loop

  calls = []
  flags = [CONFIG, f"--workdir={tmp_path / 'sweep'}"]
  monkeypatch.setattr(loop, "train", fake_train(calls, {NAMES[1]: RunFailed("diverged")}))
  with pytest.raises(RunFailed, match="1 of 6 points failed: temperature=0.5-seed=1: diverged"):
    sweep.main(flags)
  assert calls == NAMES
  rows = list(csv.DictReader((tmp_path / "sweep/results.csv").read_text().splitlines()))
  assert [(row["part"], row["seeds"]) for row in rows] == [("", "1"), ("", "2"), ("baseline", "2")]
  assert float(rows[1]["test_top1"]) == pytest.approx(0.55)

  calls.clear()
  monkeypatch.setattr(loop, "train", fake_train(calls))
  sweep.main(flags)
  assert calls == [NAMES[1]]
  assert "6 of 6 points finished" in (tmp_path / "sweep/results.md").read_text()
  assert (tmp_path / "sweep/sweep.png").stat().st_size > 5000
  assert len((tmp_path / "sweep/points.csv").read_text().splitlines()) == 7
  sweep.main(flags)
  assert calls == [NAMES[1]]

  for more, message in (
    (["--config.num_epochs=2"], "holds the sweep"),
    (["--jobs=0"], "at least 1"),
    (["--jobs=2", "--vmap=2"], "leave one out"),
    (["--baseline=nothing"], "holds no run"),
  ):
    with pytest.raises(UserError, match=message):
      sweep.main([*flags, *more])
  with pytest.raises(UserError, match="is no sweep"):
    sweep.main([CONFIG, f"--workdir={tmp_path}"])


def test_points_of_other_shapes_are_named_before_anything_runs(tmp_path):
  config = small_sweep(tmp_path, "[{'model.depth': 1}, {'model.depth': 2}]")
  with pytest.raises(UserError, match=r"--vmap trains runs of one shape.*model.depth \(1, 2\)"):
    sweep.main([config, f"--workdir={tmp_path / 'sweep'}", "--vmap=2"])
  assert not (tmp_path / "sweep").exists()


def test_points_of_equal_shape_share_a_program(tmp_path, monkeypatch):
  points = "[{'model.depth': depth, 'seed': seed} for seed in range(3) for depth in (1, 2)]"
  config = small_sweep(tmp_path, points)
  groups = []

  def train_members(configs, workdirs):
    names = [workdir.rpartition("/")[2] for workdir in workdirs]
    groups.append([(c.model.depth, c.seed, name) for c, name in zip(configs, names, strict=True)])
    return [RunFailed("not trained") for _ in configs]

  monkeypatch.setattr(members, "train_members", train_members)
  with pytest.raises(RunFailed):
    sweep.main([config, f"--workdir={tmp_path / 'sweep'}", "--vmap=2"])
  named = lambda depth, seed: (depth, seed, f"depth={depth}-seed={seed}")
  by_depth = [[[named(d, 0), named(d, 1)], [named(d, 2)]] for d in (1, 2)]
  assert groups[:4] == [group for family in by_depth for group in family]


def test_points_that_stopped_at_different_steps_are_not_mixed(tmp_path, monkeypatch):
  stopped = {"seed=1": 11, "seed=3": 11}
  groups = []

  def train_members(configs, workdirs):
    groups.append([config.seed for config in configs])
    return [RunFailed("not trained") for _ in configs]

  monkeypatch.setattr(members, "train_members", train_members)
  monkeypatch.setattr(members, "last_step", lambda folder: stopped.get(folder.name, 0))
  config = small_sweep(tmp_path, "[{'seed': seed} for seed in range(4)]")
  with pytest.raises(RunFailed):
    sweep.main([config, f"--workdir={tmp_path / 'sweep'}", "--vmap=2"])
  assert groups[:2] == [[0, 2], [1, 3]]


def test_everything_is_checked_before_the_folder_is_taken(tmp_path, monkeypatch):
  from convnn_jax.training import loop

  calls = []
  monkeypatch.setattr(loop, "train", fake_train(calls))
  workdir = f"--workdir={tmp_path / 'sweep'}"
  points = "[{'model.attention.num_neighbors': number} for number in (3, %d)]"
  good = small_sweep(tmp_path, points % 2)
  for config, more, message in (
    (small_sweep(tmp_path, points % 18, "bad.py"), [], "points/num_neighbors=18: .*num_neighbors=18"),
    (good, ["--config.seed=4294967296"], "points/num_neighbors=3: .*seed=4294967296"),
    (good, ["--vmap=2"], "These differ in .*model.attention.num_neighbors"),
    (CONFIG, ["--vmap=2", "--config.steps_per_call=2"], "points/temperature=0.5-seed=0: .*step by step"),
    (CONFIG, ["--limit=1", "--baseline=nothing"], "--baseline=nothing holds no run"),
  ):
    with pytest.raises(UserError, match=message):
      sweep.main([config, workdir, *more])
  assert not calls
  assert not (tmp_path / "sweep").exists()
  sweep.main([good, workdir])
  assert calls[:2] == ["points/num_neighbors=3", "points/num_neighbors=2"]


@pytest.fixture
def finished(tmp_path, monkeypatch):
  """The flags of a finished sweep of two points and a baseline."""
  from convnn_jax.training import loop

  monkeypatch.setattr(loop, "train", fake_train([]))
  monkeypatch.setattr(sweep, "check_points", lambda *_, **__: None)
  flags = [CONFIG, f"--workdir={tmp_path / 'sweep'}", "--limit=2"]
  sweep.main([*flags, "--config.num_epochs", "1", "--config.log_every=2"])
  return flags


def test_an_override_has_many_spellings(finished, tmp_path):
  sweep.main([*finished, "--config.log_every", "2", "--config.num_epochs=1"])
  note = tmp_path / "sweep/sweep.json"
  words = ["--config.num_epochs", "--config.log_every=2", "1"]
  for theirs, message in ((words, "holds the sweep"), ([3], "holds the sweep"), ("x", "cannot be read")):
    note.write_text(json.dumps({"config": CONFIG.partition("=")[2], "overrides": theirs}))
    with pytest.raises(UserError, match=message):
      sweep.main([*finished, "--config.log_every=2", "--config.num_epochs=1"])
  note.write_text("[]")
  with pytest.raises(UserError, match=r"sweep.json cannot be read"):
    sweep.main([*finished, "--config.log_every=2", "--config.num_epochs=1"])


@pytest.mark.parametrize("text", ["{}", "[]", '{"test_top1": "0.5"}'])
def test_a_damaged_result_is_named_and_the_others_are_in_the_tables(finished, tmp_path, text):
  flags = [*finished, "--config.log_every=2", "--config.num_epochs=1"]
  (tmp_path / "sweep" / NAMES[0] / "result.json").write_text(text)
  (tmp_path / "sweep/results.md").unlink()
  with pytest.raises(UserError, match=r"seed=0/result.json cannot be read"):
    sweep.main(flags)
  assert "3 of 4 points finished" in (tmp_path / "sweep/results.md").read_text()
  (tmp_path / "sweep" / NAMES[1] / "config.json").write_text(text)
  with pytest.raises(UserError, match=r"seed=1/config.json cannot be read"):
    sweep.main(flags)


def test_an_unknown_point_of_a_process_is_named():
  with pytest.raises(UserError, match=r"Unknown point 'points/x'.*Known: .*points/temperature=0.5-seed=0"):
    sweep.main([CONFIG, "--only=points/x"])


def test_a_killed_process_is_no_failure_of_its_last_line(tmp_path, monkeypatch):
  def start(point, root, command):
    with (root / "logs" / f"{point.part}-{point.name}.txt").open("w") as log:
      return subprocess.Popen(["sh", "-c", "echo step 5; kill -9 $$"], stdout=log)

  monkeypatch.setattr(jobs, "_start", start)
  done, failed = jobs.run([Point("points", "a", {}, None)], tmp_path, 2, [])
  assert (done, failed) == (True, {"a": "killed by signal 9"})


def command(*flags):
  env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
  return subprocess.Popen(
    [sys.executable, "-m", "convnn_jax.report.sweep", CONFIG, *flags],
    cwd=ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.slow
def test_together_side_by_side_and_killed_sweeps_have_equal_results(tmp_path):
  """--vmap, --jobs with a SIGTERM and a kill -9 in between, and one after another."""
  vmapped, parallel, plain = (tmp_path / name for name in ("vmapped", "parallel", "plain"))
  process = command(f"--workdir={vmapped}", "--vmap=4")
  out, _ = process.communicate(timeout=600)
  assert process.returncode == 0, out
  assert out.count("compiled in") == 2  # the points, the baseline

  for number in (signal.SIGTERM, signal.SIGKILL):
    process = command(f"--workdir={plain}")
    before = len(list(plain.glob("*/*/result.json")))
    while len(list(plain.glob("*/*/result.json"))) == before and process.poll() is None:
      time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=120)
  process = command(f"--workdir={plain}")
  out, _ = process.communicate(timeout=600)
  assert process.returncode == 0, out

  process = command(f"--workdir={parallel}", "--jobs=2", "--limit=2")
  out, _ = process.communicate(timeout=600)
  assert process.returncode == 0, out
  digest = lambda folder: json.loads((folder / "result.json").read_text())["params_digest"]
  assert [digest(parallel / name) for name in NAMES[:2]] == [digest(plain / name) for name in NAMES[:2]]

  for name in NAMES:
    losses = []
    for folder in (vmapped, plain):
      rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
      losses.append([row["loss"] for row in rows])
    np.testing.assert_allclose(*losses, atol=1e-5)

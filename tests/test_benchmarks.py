"""How contenders are timed side by side, and what is said of it."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from benchmarks import compiling, measure
from benchmarks.cases import Group, Ratio
from benchmarks.processes import in_new_process
from benchmarks.run import (
  any_noisy,
  headline,
  main,
  markdown,
  quiet_rows,
  run_group,
  run_group_apart,
  wanted_cases,
)
from convnn_jax.errors import RunFailed, UserError


class Steps:
  """A contender whose steps last what they are told to, in turn with others."""

  def __init__(self, name, seconds, log):
    self.name, self.seconds, self.log = name, seconds, log

  def step(self):
    self.log.append(self.name)
    return self.seconds

  def close(self):
    pass


@pytest.fixture
def no_pause(monkeypatch):
  monkeypatch.setattr(measure, "_PAUSE", 0)


@pytest.mark.parametrize(
  ("rounds", "enough", "expected"),
  [
    (7, 0.0, 7),
    (7, 20.0, 10),  # two contenders, 1.5 and 0.5 s
    (12, 20.0, 12),
    (7, 1e9, measure.MOST_ROUNDS),
    (measure.MOST_ROUNDS + 1, 1e9, measure.MOST_ROUNDS + 1),
  ],
)
def test_short_steps_are_measured_more_often(no_pause, rounds, enough, expected):
  log = []
  contenders = {name: Steps(name, seconds, log) for name, seconds in (("ours", 1.5), ("theirs", 0.5))}
  seconds = measure.interleave(contenders, rounds, enough)
  assert seconds == {"ours": [1.5] * expected, "theirs": [0.5] * expected}
  rounds = [tuple(log[begin : begin + 2]) for begin in range(0, len(log), 2)]
  assert [sorted(pair) for pair in rounds] == [["ours", "theirs"]] * (measure.WARM_UP + expected)
  assert len(set(rounds)) == 2  # neither always comes behind the other


def test_a_sample_of_short_steps_is_the_mean_of_several(no_pause):
  log = []
  contenders = {"ours": Steps("ours", 0.03, log), "theirs": Steps("theirs", 0.2, log)}
  seconds = measure.interleave(contenders, 3)
  assert seconds == {"ours": pytest.approx([0.03] * 3), "theirs": [0.2] * 3}
  assert sorted(log) == ["ours"] * 4 * (measure.WARM_UP + 3) + ["theirs"] * (measure.WARM_UP + 3)


def test_long_steps_have_rounds_of_their_own_without_warming_up(no_pause):
  log = []
  contenders = {name: lambda name=name: Steps(name, 1.0, log) for name in ("ours", "theirs")}
  case = Ratio("C11", "time to compile", "ours", "theirs", 0.8)
  (row,) = run_group(Group("compiling", ("cpu",), contenders, (case,), rounds=3), [case], 7, 30.0)
  assert sorted(log) == ["ours"] * 3 + ["theirs"] * 3
  assert (row["value"], row["samples_ms"]) == (1.0, {"ours": [1000.0] * 3, "theirs": [1000.0] * 3})


def test_results_name_the_version_of_pytorch_where_it_is():
  versions = measure.environment()["versions"]
  assert versions["jax"] == jax.__version__
  assert ("torch" in versions) == (importlib.util.find_spec("torch") is not None)


def test_what_is_measured_finds_nothing_that_was_measured_before():
  pids = {os.getpid(), in_new_process(os.getpid), in_new_process(os.getpid)}
  assert len(pids) == 3


def trace_a_condition():
  jax.jit(lambda x: 1 if x > 0 else 2)(1.0)


def refuse():
  raise UserError("k=0 is below 1")


@pytest.mark.parametrize(
  ("function", "error", "words"),
  [
    (os.abort, RunFailed, "ended with code -6"),
    (trace_a_condition, RunFailed, "in trace_a_condition(.|\n)*TracerBoolConversionError"),
    (refuse, UserError, "^k=0 is below 1$"),
  ],
)
def test_what_goes_wrong_in_another_process_is_said_here(function, error, words):
  with pytest.raises(error, match=words):
    in_new_process(function)


def is_alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return "\nState:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()


def wait_for_another(path: str):
  """The command: one process waits for another, until it is ended."""
  # What a shell starts in the background ignores Ctrl-C, and so does what comes from there, such as these tests.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  in_new_process(say_who_and_wait, path)


def say_who_and_wait(path: str):
  pathlib.Path(path).write_text(str(os.getpid()))
  time.sleep(600)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_measuring_where_the_command_was_ended(tmp_path, number):
  note = tmp_path / "pid"
  call = f"wait_for_another({str(note)!r})"
  program = f"from tests.test_benchmarks import *\nif __name__ == '__main__': {call}"
  script = tmp_path / "script.py"
  script.write_text(program)
  root = pathlib.Path(__file__).parents[1]
  parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(root)})
  try:
    wait_until(lambda: note.exists() and note.read_text())
    child = int(note.read_text())
    assert is_alive(child)
    parent.send_signal(number)
    assert parent.wait(20) != 0
    wait_until(lambda: not is_alive(child))
  finally:
    parent.kill()
    parent.wait()


def wait_until(condition, seconds: float = 60.0):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.05)


@pytest.mark.slow
def test_a_group_apart_has_the_figures_asked_for():
  ((group, cases),) = wanted_cases("cpu", "C13b")
  (row,) = run_group_apart(group, cases, 1)
  assert (row["id"], row["value"] > 0, set(row["samples_ms"])) == ("C13b", True, set(cases[0].needs))


class Machine:
  """Takes the place of another process: medians over minima that C13b has in turn; None = the process fails."""

  def __init__(self, medians):
    self.left = list(medians)

  def __call__(self, function, *arguments):
    if function is measure.environment:
      return dict(commit="abc")
    median = self.left.pop(0)
    if median is None:
      raise RunFailed("Traceback ...\nMemoryError: 7 GB")
    common = dict(id="C13b", what="k-NN", target=1.0, unit="x", headline="")
    return [
      common | dict(value=2.0, met=False, samples_ms={}, timing={"ours": measure.summary([1.0, median, 9.0])})
    ]


@pytest.mark.parametrize(
  ("medians", "kept", "attempt"),
  [([1.6, 1.2], 1.2, 2), ([1.2, 9.0], 1.2, 1), ([1.6, 1.7, 1.0], 1.7, 2), ([1.6, None], 1.6, 1)],
)
def test_a_noisy_group_is_measured_once_more(monkeypatch, medians, kept, attempt):
  monkeypatch.setattr("benchmarks.run.in_new_process", Machine(medians))
  ((group, cases),) = wanted_cases("cpu", "C13b")
  (row,) = quiet_rows(group, cases, 7)
  assert (row["timing"]["ours"]["median_ms"], row["attempt"]) == (1e3 * kept, attempt)
  assert ("2nd attempt" in markdown([row])) == (attempt == 2)
  if attempt == 2:
    assert row["first_attempt"]["timing"]["ours"]["median_ms"] == 1e3 * medians[0]


@pytest.mark.parametrize(
  ("medians", "strict", "code"),
  [
    ([1.2], "", 0),
    ([1.2], "--strict", 1),
    ([1.6, 1.2], "", 0),
    ([1.6, 1.7], "", 3),
    ([1.6, None], "", 3),
    ([None], "", 4),
  ],
)
def test_the_exit_code_says_whether_the_figures_hold(monkeypatch, tmp_path, medians, strict, code):
  monkeypatch.setattr("benchmarks.run.in_new_process", Machine(medians))
  monkeypatch.setattr("sys.argv", ["run", "--only=C13b", f"--out={tmp_path / 'a.json'}", *strict.split()])
  assert main() == code
  results = json.loads((tmp_path / "a.json").read_text())
  assert (results["noisy"], results["commit"], results["ratios"]) == (code == 3, "abc", {})
  assert ("MemoryError" in results["rows"][0].get("left_out", "")) == (code == 4)


def test_earlier_results_are_kept(monkeypatch, tmp_path):
  monkeypatch.setattr("benchmarks.run.in_new_process", Machine([1.1, 1.2, 1.3]))
  monkeypatch.setattr("sys.argv", ["run", "--only=C13b", f"--out={tmp_path / 'a.json'}"])
  for _ in range(3):
    main()
  names = ("a.json.1", "a.json.2", "a.json")
  timings = [json.loads((tmp_path / name).read_text())["rows"][0]["timing"]["ours"] for name in names]
  assert [timing["median_ms"] for timing in timings] == [1100, 1200, 1300]


@pytest.mark.parametrize(
  "argument", ["--out=.", "--out=nowhere/a.json", "--rounds=-1", "--only=C99", "--only=,"]
)
def test_mistakes_are_answered_before_anything_is_measured(monkeypatch, argument):
  monkeypatch.setattr("benchmarks.run.in_new_process", None)
  monkeypatch.setattr("sys.argv", ["run", argument])
  with pytest.raises(UserError, match=argument.split("=")[1] if "only" not in argument else "--only"):
    main()


def test_a_group_that_fails_is_left_out(monkeypatch):
  monkeypatch.setattr("benchmarks.run.in_new_process", Machine([None]))
  ((group, cases),) = wanted_cases("cpu", "C5,C5b")
  rows = run_group_apart(group, cases, 7)
  assert [(row["id"], row["left_out"]) for row in rows] == [
    ("C5", "failed: MemoryError: 7 GB"),
    ("C5b", "failed: MemoryError: 7 GB"),
  ]
  assert "left out: failed" in markdown(rows)


@pytest.mark.slow
def test_a_sample_of_compiling_is_what_the_process_prints():
  with_one_block = ("--config.model.depth=1", "--config.model.width=48", "--config.data.image_size=32")
  contender = compiling.Compilation(compiling.SOFTMAX, 2, *with_one_block)
  assert 0.1 < contender.step() < 60


@pytest.mark.parametrize(("seconds", "noisy"), [([1.0, 1.5, 9.0], False), ([1.0, 1.6, 1.7], True)])
def test_noise_is_a_median_far_above_the_minimum(seconds, noisy):
  timing = measure.summary(seconds)
  assert timing["noisy"] == noisy
  assert timing["min_ms"] == 1000
  row = dict(id="C1", what="a step", value=0.5, target=0.7, unit="x", met=True, timing={"ours": timing})
  assert any_noisy(row) == noisy
  assert ("noisy" in markdown([row])) == noisy


def test_ratios_and_bytes_of_the_headline():
  common = dict(what="", target=None, met=None, timing={})
  rows = [
    common | dict(id="C1", headline="train", value=0.61234, unit="x"),
    common | dict(id="H", headline="softmax", value=4.1e8, unit="bytes"),
    common | dict(id="C3", headline="", value=0.7, unit="x"),
    common | dict(id="C2", headline="inference", unit="x", left_out="needs torch"),
  ]
  assert headline(rows) == {"ratios": {"train": 0.6123}, "temp_bytes": {"softmax": 410_000_000}}
  assert "left out: needs torch" in markdown(rows)


def test_a_figure_that_nobody_measures_is_refused():
  with pytest.raises(UserError, match="C99"):
    wanted_cases("cpu", "C5,C99")

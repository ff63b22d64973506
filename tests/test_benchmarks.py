"""How contenders are timed side by side, and what is said of it."""

import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from benchmarks import compiling, measure
from benchmarks.cases import Group, Ratio
from benchmarks.run import (
  any_noisy,
  headline,
  in_new_process,
  markdown,
  quiet_rows,
  run_group,
  run_group_apart,
  wanted_cases,
)
from convnn_jax.errors import UserError


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


def test_what_is_measured_finds_nothing_that_was_measured_before():
  pids = {os.getpid(), in_new_process(os.getpid), in_new_process(os.getpid)}
  assert len(pids) == 3
  with pytest.raises(BrokenProcessPool):
    in_new_process(os.abort)


@pytest.mark.slow
def test_a_group_apart_has_the_figures_asked_for():
  ((group, cases),) = wanted_cases("cpu", "C13b")
  (row,) = run_group_apart(group, cases, 1)
  assert (row["id"], row["value"] > 0, set(row["samples_ms"])) == ("C13b", True, set(cases[0].needs))


@pytest.mark.parametrize(
  ("medians", "kept", "attempt"), [([1.6, 1.2], 1.2, 2), ([1.2, 9.0], 1.2, 1), ([1.6, 1.7, 1.0], 1.7, 2)]
)
def test_a_noisy_group_is_measured_once_more(monkeypatch, medians, kept, attempt):
  left = iter(medians)

  def measured(function, *arguments):
    timing = measure.summary([1.0, next(left), 9.0])
    return [dict(id="C13b", timing={"ours": timing})]

  monkeypatch.setattr("benchmarks.run.in_new_process", measured)
  ((group, cases),) = wanted_cases("cpu", "C13b")
  (row,) = quiet_rows(group, cases, 7)
  assert (row["timing"]["ours"]["median_ms"], row["attempt"]) == (1e3 * kept, attempt)


def test_a_group_whose_process_ends_is_left_out(monkeypatch):
  def ended(function, *arguments):
    raise BrokenProcessPool

  monkeypatch.setattr("benchmarks.run.in_new_process", ended)
  ((group, cases),) = wanted_cases("cpu", "C5,C5b")
  rows = run_group_apart(group, cases, 7)
  assert [(row["id"], "memory" in row["left_out"]) for row in rows] == [("C5", True), ("C5b", True)]
  assert "left out" in markdown(rows)


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

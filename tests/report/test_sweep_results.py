"""Means and deviations over seeds, and the plot."""

import statistics

import pytest

from convnn_jax.report import sweep_results
from convnn_jax.report.points import Point
from convnn_jax.report.rows import markdown

FIELD = "optimizer.learning_rate"


def finished(part, overrides, top1):
  result = dict(
    test_top1=top1, best_test_top1=top1 + 0.01, test_loss=1 - top1, train_seconds=2.0, num_params=7
  )
  return Point(part, "name", overrides, None), result


RUNS = [
  finished("points", {FIELD: 0.1, "seed": 0}, 0.5),
  finished("points", {FIELD: 0.2, "seed": 0}, 0.7),
  finished("points", {FIELD: 0.1, "seed": 1}, 0.6),
  finished("baseline", {"seed": 0}, 0.4),
]


def test_mean_and_sample_deviation_over_seeds():
  low, high, baseline = sweep_results.group(RUNS)
  assert (low[FIELD], low["seeds"], low["test_top1"]) == (0.1, 2, pytest.approx(0.55))
  assert low["test_top1_sd"] == pytest.approx(statistics.stdev([0.5, 0.6]))
  assert (high["seeds"], high["test_top1_sd"]) == (1, None)
  assert baseline["part"] == "baseline"
  table = markdown(sweep_results.columns_for([FIELD]), [low, high, baseline])
  assert "learning_rate" in table
  assert "55.00 | 7.07" in table.replace("  ", " ")


def test_plot_has_the_points_and_the_band():
  figure = sweep_results.plot(sweep_results.group(RUNS), [FIELD])
  last, best = figure.axes
  (line,) = (c for c in last.containers if hasattr(c, "has_yerr"))
  assert line[0].get_xydata().ravel() == pytest.approx([0.1, 55.0, 0.2, 70.0])
  assert any("baseline" in text.get_text() for text in last.get_legend().get_texts())
  assert best.get_xlabel() == FIELD


def test_words_have_no_plot():
  runs = [finished("points", {"loss.name": name}, 0.5) for name in ("mse", "cross_entropy")]
  assert sweep_results.plot(sweep_results.group(runs), ["loss.name"]) is None


def test_a_field_left_to_the_config_is_shown_with_its_value(small_config):
  config = small_config("--config.seed=0")
  own = config.optimizer.learning_rate
  made = [
    (Point("points", "a", {"seed": 0}, config), RUNS[0][1]),
    (Point("points", "b", {FIELD: 0.5, "config": "other.py", "seed": 0}, config), RUNS[1][1]),
    (Point("points", "c", {FIELD: own, "seed": 0}, config), RUNS[2][1]),
  ]
  plain, changed, same = sweep_results.group(made, [FIELD, "config"])
  assert (plain[FIELD], changed[FIELD], same[FIELD]) == (own, 0.5, own)
  assert (plain["seeds"], same["seeds"]) == (1, 1)  # the same run twice is not two seeds
  assert "config" not in plain  # no field of a config

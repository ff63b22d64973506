"""What is written and printed."""

import json
import math

import pytest

from convnn_jax.errors import RunFailed
from convnn_jax.training.metrics import Progress, Writer, rounded
from convnn_jax.training.record import RunRecord


def rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_rows_after_the_resumed_step_are_taken_out(tmp_path):
  with Writer(tmp_path, 0) as log:
    for step in (1, 2, 3):
      log.write(step, "train", {"loss": float(step)})
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 4, "par')  # cut by a kill
  with Writer(tmp_path, 2) as log:
    log.write(3, "train", {"loss": 30.0})
  assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_rows_are_valid_json_even_for_nan(tmp_path):
  with Writer(tmp_path, 0) as log:
    log.write(1, "train", {"loss": math.nan, "top1": 0.5})
  assert rows(tmp_path) == [{"step": 1, "part": "train", "loss": None, "top1": 0.5}]


def test_printed_digits():
  assert rounded({"loss": 0.123456789, "top1": 1 / 3}) == {"loss": 0.12346, "top1": 0.333333}


def step_metrics(loss, skipped=0, in_a_row=0):
  return {"loss": loss, "top1": 0.5, "skipped": skipped, "skipped_in_a_row": in_a_row}


def test_record_counts_means_and_the_earliest_best():
  record = RunRecord()
  newest, warnings = record.take_in(
    [step_metrics(1.0), step_metrics(math.nan, 1, 1), step_metrics(3.0, 1)], 5
  )
  assert newest["loss"] == 3.0
  assert record.step == 3
  assert len(warnings) == 1
  assert "step 2: loss or gradient is not finite" in warnings[0]
  assert record.evaluated({"top1": 0.7, "loss": 1.0}) == {"loss": 2.0, "top1": 0.5}
  record.take_in([step_metrics(1.0, 1)], 5)
  record.evaluated({"top1": 0.7, "loss": 0.9})
  assert (record.best_top1, record.best_step) == (0.7, 3)
  assert record.last_test == {"step": 4, "top1": 0.7, "loss": 0.9}
  assert RunRecord.from_meta(json.loads(json.dumps(record.to_meta()))) == record


def test_too_many_skipped_updates_name_the_step():
  with pytest.raises(RunFailed, match="Stopped at step 2: the last 2 losses"):
    RunRecord().take_in([step_metrics(math.nan, 1, 1), step_metrics(math.nan, 2, 2)], 2)


def test_time_of_evaluation_is_not_training_time(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr("time.perf_counter", lambda: clock[0])
  with Progress(0, 10, batch_size=8) as progress:
    for seconds in (5.0, 2.0, 4.0):
      progress.step()
      progress.step()
      clock[0] += seconds
      progress.mark({"loss": 1.0, "top1": 0.5})
      clock[0] += 100.0
      progress.restart_clock()
    assert progress.seconds == 11.0
    assert progress.median_step() == pytest.approx(2.0)
    assert progress.speed(6) == "4 images/s ETA 0:00:08"

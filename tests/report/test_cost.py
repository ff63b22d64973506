"""What models cost."""

import csv
import time

import jax
import pytest
from fast_jit import use_fast_jit

from convnn_jax.errors import UserError
from convnn_jax.report import cost
from convnn_jax.training import config as config_lib

TINY = ["--config.model.width=16", "--config.model.depth=1", "--config.model.mlp_dim=16"]


def test_calls_are_awaited_and_the_first_ones_left_out():
  seen = []

  def call():
    time.sleep(0.05 if len(seen) < cost.WARM_UP else 0.002)
    seen.append(1)
    return jax.numpy.zeros(())

  times = cost.measure(call, 5)
  assert (len(times), len(seen)) == (5, 5 + cost.WARM_UP)
  assert all(0.002 <= t < 0.05 for t in times)


def test_table_of_a_model(tmp_path, monkeypatch, capsys):
  use_fast_jit(monkeypatch)
  out = tmp_path / "cost"
  flags = ["--config=configs/vit_softmax.py:digits", "--batch=1,8", "--repeats=3", f"--out={out}", *TINY]
  cost.main(flags)
  one, eight = csv.DictReader((out / "cost.csv").read_text().splitlines())
  assert (one["batch"], eight["batch"]) == ("1", "8")
  assert one["num_params"] == eight["num_params"]
  assert float(eight["temp_mb"]) > float(one["temp_mb"]) > 0
  for row in (one, eight):
    assert 0 < float(row["latency_low_ms"]) <= float(row["latency_ms"]) <= float(row["latency_high_ms"])
    throughput = 1e3 * int(row["batch"]) / float(row["latency_ms"])
    assert float(row["images_per_second"]) == pytest.approx(throughput, rel=0.5)
  assert one["step_ms"] == ""  # one image does not divide over eight devices
  assert float(eight["step_ms"]) > 0
  assert "time the host needs to queue" in capsys.readouterr().out
  with pytest.raises(UserError, match="not empty"):
    cost.main([*flags[:1], "--batch=1", "--repeats=1", "--training=no", flags[3], *TINY])


def test_recipes_that_mix_images_are_measured_without():
  config = config_lib.load("configs/swin_nano.py", [])
  assert "mixup" in config.data.augment
  prepared, pieces = cost._prepare(config, [1])
  assert not {"mixup", "cutmix"} & set(prepared.data.augment)
  assert pieces.num_params == 3_048_694


@pytest.mark.parametrize(
  ("flag", "message"),
  [("--batch=0", "--batch=0 must be"), ("--batch=a", "must be numbers"), ("--repeats=0", "at least 1")],
)
def test_mistakes(flag, message):
  with pytest.raises(UserError, match=message):
    cost.main(["--config=configs/vit_softmax.py:digits", flag])

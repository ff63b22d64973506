"""Checkpoints whose files are damaged, and saves that are killed."""

import logging
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_items import TARGETS, check_equal, save

from convnn_jax.errors import UserError
from convnn_jax.training import checkpoint_checks as checks
from convnn_jax.training.checkpoint import Checkpoints


@pytest.fixture
def checkpoints(tmp_path):
  with Checkpoints(tmp_path, keep=3) as opened:
    yield opened


# Damage.


def largest_file(folder):
  return max((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)


def halve(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path, start, stop):
  data = bytearray(path.read_bytes())
  data[start:stop] = np.random.default_rng(0).bytes(len(data[start:stop]))
  path.write_bytes(data)


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


DAMAGE = {
  "truncated data": lambda step: halve(largest_file(step / "params")),
  "garbled data": lambda step: overwrite(largest_file(step / "params"), 0, None),
  "garbled data of rest": lambda step: overwrite(largest_file(step / "rest"), 0, None),
  # Four bytes of a number: TensorStore reads on, only the checksum tells.
  "one changed number": lambda step: overwrite(largest_file(step / "params"), 6000, 6004),
  "empty data file": lambda step: largest_file(step / "params").write_bytes(b""),
  "no description": lambda step: (step / "params" / "_METADATA").unlink(),
  "half a description": lambda step: halve(step / "params" / "_METADATA"),
  "no manifest": lambda step: (step / "params" / "manifest.ocdbt").unlink(),
  "missing item": lambda step: shutil.rmtree(step / "rest"),
  "empty folder": empty,
  "half a meta": lambda step: halve(step / "meta" / "metadata"),
  "meta of zeros": lambda step: (step / "meta" / "metadata").write_bytes(b"\0" * 100),
  "meta of another shape": lambda step: (step / "meta" / "metadata").write_text("[1]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_step_is_reported_and_can_be_saved_again(tmp_path, caplog, capfd, kind):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, 2, 3, metric=0.5)
  DAMAGE[kind](tmp_path / "checkpoints" / "3")
  with Checkpoints(tmp_path, mode="read") as reader:
    assert reader.restore(TARGETS)[0] == 2
    assert reader.steps() == [1, 2, 3]  # a reader moves nothing
  caplog.clear()
  with Checkpoints(tmp_path) as checkpoints:
    step, items, meta = checkpoints.restore(TARGETS)
    assert (step, meta) == (2, {"step": 2})
    check_equal(items, 2)
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    for part in ("step 3", "step 2 is used", "damaged-3"):
      assert part in warnings[0]
    assert "\n" not in warnings[0]
    assert checkpoints.steps() == [1, 2]
    assert (tmp_path / "checkpoints" / "damaged-3").is_dir()
    save(checkpoints, 3, 4)
    assert checkpoints.steps() == [1, 2, 3, 4]
  with Checkpoints(tmp_path) as checkpoints:
    check_equal(checkpoints.restore(TARGETS, step=3)[1], 3)
  assert "Traceback" not in capfd.readouterr().err


def test_two_damaged_steps_and_a_taken_name(tmp_path, caplog):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, 2, 3)
  (tmp_path / "checkpoints" / "damaged-3").mkdir()
  for step in ("2", "3"):
    empty(tmp_path / "checkpoints" / step)
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(TARGETS)[0] == 1
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["1", "damaged-2", "damaged-3", "damaged-3-2"]
  assert len(caplog.records) == 2


def test_all_damaged(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, 2)
  for step in ("1", "2"):
    empty(tmp_path / "checkpoints" / step)
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(UserError, match=r"step 2: .*step 1: .*--workdir"):
      checkpoints.restore(TARGETS)
    assert checkpoints.steps() == [1, 2]


def test_damaged_best_is_not_replaced_in_silence(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, metric=0.9)
    save(checkpoints, 2, metric=0.8)
  shutil.rmtree(tmp_path / "checkpoints" / "1" / "params")
  with Checkpoints(tmp_path) as checkpoints:
    for step in ("best", 1):
      with pytest.raises(UserError, match=r"step 1: params.*\[2\]"):
        checkpoints.restore(TARGETS, step=step)
    assert checkpoints.steps() == [1, 2]


def test_storage_that_fails_is_not_damage(checkpoints, monkeypatch):
  save(checkpoints, 1, 2)

  def refuse(*_):
    raise ValueError("UNAVAILABLE: try again")

  monkeypatch.setattr(checks, "check_fit", refuse)
  with pytest.raises(UserError, match="cannot be read now .*UNAVAILABLE"):
    checkpoints.restore(TARGETS)
  assert checkpoints.steps() == [1, 2]


# Sudden death.

KILLED = """
import os, sys, threading, time
import jax, jax.numpy as jnp
from convnn_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
items = {"params": {"x": jax.random.normal(jax.random.key(1), (3000, 3000))}}
checkpoints.save(1, items, {}, finish="now")
checkpoints.save(2, items, {})
print("saving", flush=True)
time.sleep(60)
"""


def test_kill_in_the_middle_of_a_save(tmp_path):
  process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
  folder = tmp_path / "checkpoints"
  assert process.stdout.readline() == b"saving\n"
  half_written = list(folder.glob("2*"))
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  assert [path.name for path in half_written] != ["2"], "the save was over before the kill"
  target = {"params": {"x": jax.ShapeDtypeStruct((3000, 3000), jnp.float32)}}
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(lambda x: x.update(sharding=sharding), target)
  with Checkpoints(tmp_path) as checkpoints:
    step, items, _ = checkpoints.restore(target)
    assert step == 1
    checkpoints.save(2, items, {})
    checkpoints.save(3, items, {})
  assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(target)[0] == 3

"""Checkpoints: what is kept, what is read back, and what happens when files are damaged."""

import logging
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.training import checkpoint_checks as checks
from convnn_jax.training.checkpoint import Checkpoints


class Moments(NamedTuple):
  count: jax.Array
  mu: dict


@flax.struct.dataclass
class Average:
  weight: jax.Array


def make_items(step, num_devices=8):
  """Arrays that depend on the step; the kernel split over the devices, the rest on each."""
  mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  rng = np.random.default_rng(step)

  def noise(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {
    "head": {"kernel": jax.device_put(noise(64, 48), split), "bias": np.zeros(48, jnp.bfloat16)},
    "scale": noise(),
  }
  rest = {
    "opt": (Moments(np.int32(step), {"kernel": noise(64, 48)}), (), None),
    "average": Average(noise(3)),
    "key": np.asarray(jax.random.key_data(jax.random.key(step))),
    "seen": np.array([True, False]),
  }
  return jax.tree.map(
    lambda x: x if isinstance(x, jax.Array) else jax.device_put(x, everywhere),
    {"params": params, "rest": rest},
  )


def targets_of(items):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


TARGETS = targets_of(make_items(0))


def save(checkpoints, *steps, metric=None):
  for step in steps:
    meta = {"step": step}
    assert checkpoints.save(step, make_items(step), meta, metric=metric, finish="now")


def check_equal(items, step):
  expected = {name: make_items(step)[name] for name in items}
  assert jax.tree.structure(items) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, items, expected)


@pytest.fixture
def checkpoints(tmp_path):
  with Checkpoints(tmp_path, keep=3) as opened:
    yield opened


def test_round_trip_keeps_values_types_and_placement(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore(TARGETS) is None
    assert (checkpoints.latest(), checkpoints.best(), checkpoints.steps()) == (None, None, [])
    save(checkpoints, 1, 2, metric=0.5)
  with Checkpoints(tmp_path) as checkpoints:
    step, items, meta = checkpoints.restore(TARGETS)
    assert (step, meta, checkpoints.read_meta(1)) == (2, {"step": 2}, {"step": 1})
    check_equal(items, 2)
    same = jax.tree.map(lambda x, t: x.sharding == t.sharding and x.dtype == t.dtype, items, TARGETS)
    assert jax.tree.all(same)
    step, items, _ = checkpoints.restore(TARGETS, step=1)
    check_equal(items, 1)
    assert step == 1


def test_arrays_may_be_donated_while_they_are_written(checkpoints):
  x = jnp.zeros((512, 512))
  update = jax.jit(lambda x: x + 1, donate_argnums=0)
  checkpoints.save(1, {"params": {"x": x}}, {})
  for _ in range(20):
    x = update(x)
  target = targets_of({"params": {"x": x}})
  _, items, _ = checkpoints.restore(target)  # waits for the save
  np.testing.assert_array_equal(items["params"]["x"], 0)


def test_params_alone_on_a_fresh_reader(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    save(checkpoints, 1, 2)
  before = sorted(tmp_path.rglob("*"))
  with Checkpoints(tmp_path, mode="read") as checkpoints:
    step, items, meta = checkpoints.restore({"params": TARGETS["params"]})
  assert (step, list(items), meta) == (2, ["params"], {"step": 2})
  check_equal(items, 2)
  assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_creates_nothing_and_sees_a_running_training(tmp_path):
  reader = Checkpoints(tmp_path, mode="read")
  assert reader.restore(TARGETS) is None
  assert not list(tmp_path.iterdir())
  with Checkpoints(tmp_path) as writer:
    save(writer, 1)
    assert reader.restore(TARGETS)[0] == 1
    save(writer, 2)
    assert reader.restore(TARGETS)[0] == 2
  reader.close()


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 2)])
def test_other_number_of_devices(tmp_path, saved_on, restored_on):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_items(1, saved_on), {})
  with Checkpoints(tmp_path) as checkpoints:
    _, items, _ = checkpoints.restore(targets_of(make_items(0, restored_on)))
  check_equal(items, 1)
  assert len(items["params"]["head"]["kernel"].sharding.device_set) == restored_on


# Keeping.


def test_keeps_the_last_and_the_best(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    for step, metric in enumerate([0.1, 0.9, 0.3, 0.4, 0.2], start=1):
      save(checkpoints, step, metric=metric)
    assert (checkpoints.steps(), checkpoints.best(), checkpoints.latest()) == ([2, 4, 5], 2, 5)
    assert checkpoints.restore(TARGETS, step="best")[0] == 2
  with Checkpoints(tmp_path, keep=2) as checkpoints:  # known again from disk
    assert checkpoints.best() == 2
    save(checkpoints, 6, metric=0.95)
    assert checkpoints.steps() == [5, 6]
    save(checkpoints, 7)
    assert checkpoints.steps() == [6, 7]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_saves_without_metric_neither_win_nor_push_out_the_best(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    save(checkpoints, 1)
    assert checkpoints.best() is None
    with pytest.raises(UserError, match="evaluated"):
      checkpoints.restore(TARGETS, step="best")
    save(checkpoints, 2, metric=0.2)
    save(checkpoints, 3, 4)
    save(checkpoints, 5, metric=float("nan"))
    assert (checkpoints.steps(), checkpoints.best()) == ([2, 5], 2)
    assert checkpoints.metric(2) == 0.2
    assert checkpoints.metric(5) is None


def test_metrics_may_be_arrays(checkpoints):
  save(checkpoints, 1, metric=np.float32(0.5))
  save(checkpoints, 2, metric=jnp.float32(0.25))
  assert (checkpoints.best(), checkpoints.metric(1)) == (1, 0.5)


def test_of_equal_metrics_the_earliest_is_best(tmp_path):
  with Checkpoints(tmp_path, keep=1) as checkpoints:
    for step in (1, 2, 3):
      save(checkpoints, step, metric=0.5)
    assert (checkpoints.steps(), checkpoints.best()) == ([1, 3], 1)


def test_saving_a_step_twice_does_nothing(checkpoints):
  save(checkpoints, 1, metric=0.5)
  assert not checkpoints.save(1, make_items(7), {}, metric=0.7)
  check_equal(checkpoints.restore(TARGETS)[1], 1)
  assert checkpoints.metric(1) == 0.5


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


# Mistakes.


def test_steps_that_do_not_exist(checkpoints):
  save(checkpoints, 10, 20)
  with pytest.raises(UserError, match=r"step 15 .*\[10, 20\]"):
    checkpoints.restore(TARGETS, step=15)
  with pytest.raises(UserError, match=r"step 15 .*\[10, 20\]"):
    checkpoints.read_meta(15)


def test_another_model_is_named_not_fallen_back_from(checkpoints):
  save(checkpoints, 1, 2)
  sharding = TARGETS["params"]["scale"].sharding
  leaf = jax.ShapeDtypeStruct((64, 5), jnp.float32, sharding=sharding)
  params = TARGETS["params"]
  wider = {**params, "head": {**params["head"], "kernel": leaf}}
  with pytest.raises(UserError, match=r"params/head/kernel is \(64, 48\) .* \(64, 5\) here"):
    checkpoints.restore({"params": wider})
  with pytest.raises(UserError, match=r"params/tail \(64, 5\) is not in the checkpoint"):
    checkpoints.restore({"params": {**params, "tail": leaf}})
  with pytest.raises(UserError, match=r"params/scale \(\) is only in the checkpoint"):
    checkpoints.restore({"params": {"head": params["head"]}})
  with pytest.raises(UserError, match="ema"):
    checkpoints.restore({"params": params, "ema": params})
  assert checkpoints.steps() == [1, 2]
  assert checkpoints.restore(TARGETS)[0] == 2


def test_wrong_arguments(tmp_path):
  with pytest.raises(UserError, match="keep_checkpoints=0"):
    Checkpoints(tmp_path, keep=0)
  with pytest.raises(UserError, match="'reed'. Did you mean 'read'"):
    Checkpoints(tmp_path, mode="reed")


def test_relative_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with Checkpoints("runs/one") as checkpoints:
    save(checkpoints, 1)
  assert (tmp_path / "runs" / "one" / "checkpoints" / "1").is_dir()


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

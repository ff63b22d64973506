"""Checkpoints: what is kept, what is read back, and which mistakes are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_items import TARGETS, check_equal, make_items, save, targets_of

from convnn_jax.errors import UserError
from convnn_jax.training.checkpoint import Checkpoints


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

"""Several runs in one program: each has the losses of its single run."""

import json

import jax
import numpy as np
import pytest
from fast_jit import use_fast_jit

from convnn_jax import data
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training import loop, members, sharding
from convnn_jax.training.assemble import assemble

STEPS = 14  # more than an epoch of 11
# (seed, learning rate, weight decay, temperature, smoothing); the last seed needs 32 bits.
NUMBERS = [(1, 3e-3, 0.01, 0.5, 0.1), (4_000_000_000, 1e-2, 0.0, 2.0, 0.0)]


@pytest.fixture
def member_configs(small_config):
  def make(*overrides):
    names = ("seed", "optimizer.learning_rate", "optimizer.weight_decay")
    names += ("model.attention.temperature", "loss.label_smoothing")
    words = [[f"--config.{n}={v}" for n, v in zip(names, values, strict=True)] for values in NUMBERS]
    common = ("--config.data.augment=('crop',)", "--config.optimizer.schedule=cosine", *overrides)
    return [small_config(*common, *own) for own in words]

  return make


def single_losses(config):
  pieces = assemble(config)
  by_batch = sharding.batch_sharding(pieces.mesh)
  train = data.open_dataset(config.data).train
  resident, state = data.resident(train, by_batch), pieces.create_state()
  update = loop.make_update(pieces, config)
  batches = data.train_batches(
    train, seed=config.seed, batch_size=config.batch_size, start_step=0, sharding=by_batch
  )
  losses = []
  for _, batch in zip(range(STEPS), batches, strict=False):
    state, metrics = update(state, resident, batch)
    losses.append(float(metrics["loss"]))
  return losses


def test_losses_are_those_of_single_runs(member_configs, monkeypatch, one_device):
  configs = member_configs()
  use_fast_jit(monkeypatch)
  group = members.Members(configs)
  split = data.open_dataset(configs[0].data).train
  resident = jax.device_put({"image": split.images, "label": split.labels}, group.everywhere)
  state, update, together = group.create_state(), group.make_update(), []
  for _, batch in zip(range(STEPS), group.batches(len(split), 0), strict=False):
    state, metrics = update(state, group.values, resident, batch)
    together.append(np.asarray(metrics["loss"]))
  with one_device():
    alone = single_losses(configs[1])  # of the other member in the slow test below, to compile less
  np.testing.assert_allclose(np.asarray(together)[:, 1], alone, atol=1e-5, rtol=0)
  assert abs(together[-1][0] - together[-1][1]) > 1e-3  # the numbers matter


def test_what_cannot_differ_is_named(small_config):
  alike = [small_config(), small_config("--config.seed=1")]
  assert members.check_alike(alike) == ["seed"]
  other = small_config("--config.model.depth=2", "--config.optimizer.momentum=0.5")
  with pytest.raises(UserError, match=r"differ in model.depth \(1, 2\); optimizer.momentum \(0.9, 0.5\)"):
    members.check_alike([*alike, other])
  assert members.can_differ("model.attention.first.temperature")
  assert members.can_differ("model.attention.regularization")
  assert not members.can_differ("data.temperature")


def test_members_compute_in_the_domain_of_their_single_runs():
  field = "--config.model.attention.regularization"
  make = lambda number: config_lib.load("configs/sot_qk.py:digits", [f"{field}={number}"])
  safe, sharp = [make(number) for number in (0.05, 0.5)], make(0.001)
  assert members.check_alike(safe) == ["model.attention.regularization"]
  assert members.fixed_fields(safe[0]) == members.fixed_fields(safe[1])
  assert ("model.attention.domain", "'exp'") in members.fixed_fields(safe[0])
  with pytest.raises(UserError, match=r"differ in model.attention.domain \(exp, log\)"):
    members.check_alike([*safe, sharp])


def test_an_impossible_number_of_a_member_is_found_before_anything_is_compiled(small_config):
  with pytest.raises(UserError, match="temperature=0.0 must be"):
    members.Members([small_config(), small_config("--config.model.attention.temperature=0.0")])


@pytest.mark.slow
def test_folders_hold_what_single_runs_leave_and_a_stopped_group_goes_on(
  member_configs, tmp_path, monkeypatch
):
  configs = member_configs("--config.num_epochs=2")
  whole = [str(tmp_path / f"whole{i}") for i in range(2)]
  results = members.train_members(configs, whole)

  class StopsAt(members.Interruption):
    asked = 0

    def __enter__(self):
      return self

    def __exit__(self, *_):
      pass

    @property
    def requested(self):
      self.asked += 1
      return self.asked == 15

    @requested.setter
    def requested(self, value):
      pass

  parts = [str(tmp_path / f"parts{i}") for i in range(2)]
  with monkeypatch.context() as patch:
    patch.setattr(members, "Interruption", StopsAt)
    assert members.train_members(configs, parts) is None
  assert (tmp_path / "parts0/checkpoints/15").is_dir()
  again = members.train_members(configs, parts)
  assert [r["params_digest"] for r in again] == [r["params_digest"] for r in results]

  single = loop.train(configs[0], tmp_path / "single")
  assert single.keys() | {"vmapped_members"} == results[0].keys()
  assert single["test_top1"] == results[0]["test_top1"]
  rows = lambda folder: [
    json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()
  ]
  for here in ("whole0", "parts0"):
    assert [(r["step"], r["part"]) for r in rows(here) if r["step"] != 15] == [
      (r["step"], r["part"]) for r in rows("single") if r["step"] != 15
    ]
  mine, its = rows("whole0"), rows("single")
  np.testing.assert_allclose([r["loss"] for r in mine], [r["loss"] for r in its], atol=1e-5)
  names = {path.name for path in (tmp_path / "single").iterdir() if "tfevents" not in path.name}
  assert names - {".lock"} <= {path.name for path in (tmp_path / "whole0").iterdir()}

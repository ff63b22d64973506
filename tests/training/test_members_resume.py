"""Groups that were stopped, damaged or begun apart: nothing trained is lost. The programs here are plain Python."""

import dataclasses
import os
import signal
import types

import jax
import numpy as np
import pytest

from convnn_jax.errors import RunFailed, UserError
from convnn_jax.training import assemble as assemble_lib
from convnn_jax.training import members, members_program, members_resume
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.record import RunRecord
from convnn_jax.training.state import TrainState


@pytest.fixture(scope="module")
def pieces_of():
  """assemble() of one config, for all seeds, with a state that is quickly saved."""
  known = []
  leaf = lambda dtype: jax.ShapeDtypeStruct((), dtype)
  state = TrainState(
    step=leaf(np.int32),
    params={"w": leaf(np.float32)},
    opt_state=(),
    collections={},
    ema=(),
    skipped=leaf(np.int32),
    skipped_in_a_row=leaf(np.int32),
  )

  def make(config):
    if not known:
      known.append(dataclasses.replace(assemble_lib.assemble(config), state_shapes=state))
    return known[0]

  return make


@pytest.fixture
def group(monkeypatch, pieces_of):
  """What happens to groups: `begun` holds (seeds, first step); the fields say when what goes wrong."""
  told = types.SimpleNamespace(begun=[], diverges={}, signal_at=None, signal_while_compiling=False)

  class Cheap(members_program.Members):
    def create_state(self):
      shapes = self.pieces[0].state_shapes
      return jax.tree.map(lambda leaf: np.zeros((self.size, *leaf.shape), leaf.dtype), shapes)

    def make_update(self):
      return types.SimpleNamespace(lower=self.lower)

    def lower(self, state, *_):
      seeds = [config.seed for config in self.configs]
      told.begun.append((seeds, int(state.step[0])))
      if told.signal_while_compiling:
        os.kill(os.getpid(), signal.SIGTERM)
      return types.SimpleNamespace(compile=lambda: self.update)

    def update(self, state, *_):
      step = np.asarray(state.step) + 1
      if step[0] == told.signal_at:
        os.kill(os.getpid(), signal.SIGTERM)
      bad = np.array([step[0] >= told.diverges.get(config.seed, 1000) for config in self.configs])
      skipped = np.where(bad, 1000, 0)
      loss = np.where(bad, np.nan, 1.0)
      metrics = {"loss": loss, "top1": loss, "skipped": skipped, "skipped_in_a_row": skipped}
      return state.replace(step=step), metrics

  evaluate = lambda group, *_: lambda state: [{"loss": 1.0, "top1": 0.5, "top5": 1.0}] * group.size
  result = lambda params, record, *_: {"steps": record.step, "seconds": record.seconds}
  monkeypatch.setattr(members_program, "assemble", pieces_of)
  monkeypatch.setattr(members, "Members", Cheap)
  monkeypatch.setattr(members, "_Evaluation", evaluate)
  monkeypatch.setattr(members, "result_of", result)
  monkeypatch.setattr(members.report_lines, "model_text", lambda *_: "")
  return told


@pytest.fixture
def runs(tmp_path, small_config, pieces_of):
  """A function: the saved steps of each run -> (configs, folders); their seeds are 0, 1, ..."""

  def make(*saved):
    configs = [small_config(f"--config.seed={seed}") for seed in range(len(saved))]
    folders = [tmp_path / f"run{seed}" for seed in range(len(saved))]
    shapes = pieces_of(configs[0]).state_shapes
    for config, folder, steps in zip(configs, folders, saved, strict=True):
      workdir_lib.open_workdir(folder, config)
      with Checkpoints(folder) as checkpoints:
        for step in steps:
          state = jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes)
          items = state.replace(step=jax.device_put(np.int32(step))).checkpoint_items()
          checkpoints.save(step, items, RunRecord(step=step, seconds=100.0 * step).to_meta(), finish="now")
    return configs, [str(folder) for folder in folders]

  return make


def saved_in(folder):
  return sorted(os.listdir(os.path.join(folder, "checkpoints")))


def damage(folder, step):
  with open(os.path.join(folder, "checkpoints", str(step), "meta", "metadata"), "w") as file:
    file.write("{")


def test_runs_begun_one_after_another_go_on_in_groups_of_their_own(group, runs, capsys):
  configs, folders = runs([11, 15], [], [15], [])
  results = members.train_members(configs, folders)
  assert group.begun == [([0, 2], 15), ([1, 3], 0)]
  assert [result["steps"] for result in results] == [22] * 4
  assert "no saved step is common" in capsys.readouterr().out
  assert members.last_step(folders[1]) == 22
  assert saved_in(folders[0]) == ["15", "22"]
  assert results[0]["seconds"] > 1500 > results[1]["seconds"]


def test_a_failed_run_stays_failed_and_its_group_goes_on(group, runs):
  configs, folders = runs([], [])
  group.diverges, group.signal_at = {1: 3}, 7
  assert members.train_members(configs, folders) is None
  assert (saved_in(folders[0]), saved_in(folders[1])) == (["7"], [])

  group.begun.clear()
  first, second = members.train_members(configs, folders)
  assert group.begun == [([0], 7)]
  assert first["steps"] == 22
  assert isinstance(second, RunFailed)
  assert "not finite" in str(second)
  assert "move it away" in str(second)

  os.remove(os.path.join(folders[1], "failed.json"))
  group.diverges, group.signal_at = {}, None
  assert members.train_members(configs[1:], folders[1:])[0]["steps"] == 22


def test_a_group_of_failed_runs_ends(group, runs):
  configs, folders = runs([], [])
  group.diverges = {0: 2, 1: 4}
  assert all(isinstance(result, RunFailed) for result in members.train_members(configs, folders))
  assert saved_in(folders[0]) == []
  group.begun.clear()
  assert all(isinstance(result, RunFailed) for result in members.train_members(configs, folders))
  assert not group.begun


def test_a_damaged_step_sends_the_group_back_to_the_one_before(group, runs, caplog, capsys):
  configs, folders = runs([5, 10], [5, 10])
  damage(folders[1], 10)
  assert members.train_members(configs, folders)[1]["steps"] == 22
  assert group.begun == [([0, 1], 5)]
  assert "step 10 is damaged" in caplog.text
  assert "run 0 goes back to step 5" in capsys.readouterr().out
  assert "unused-10" in saved_in(folders[0])
  assert "damaged-10" in saved_in(folders[1])


def test_a_damaged_step_without_a_common_one_before_parts_the_group(group, runs):
  configs, folders = runs([10], [5, 10])
  damage(folders[1], 10)
  results = members.train_members(configs, folders)
  assert group.begun == [([0], 10), ([1], 5)]
  assert [result["steps"] for result in results] == [22, 22]


def test_a_signal_while_compiling_ends_as_any_other(group, runs):
  group.signal_while_compiling = True
  configs, folders = runs([], [])
  assert members.train_members(configs, folders) is None
  assert saved_in(folders[0]) == saved_in(folders[1]) == ["1"]


def test_a_scrambled_note_of_a_failure_is_named(tmp_path):
  (tmp_path / "failed.json").write_text("[]")
  with pytest.raises(UserError, match=r"failed.json cannot be read"):
    members_resume.failure(tmp_path)

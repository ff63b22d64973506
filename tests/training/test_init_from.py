"""Runs that start from other parameters: what is taken, resized or begun anew, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from convnn_jax.convert.rules import flat
from convnn_jax.errors import UserError
from convnn_jax.models import transfer
from convnn_jax.ops.resize import resize_table
from convnn_jax.training import config as config_lib
from convnn_jax.training import init_from, members, workdir
from convnn_jax.training.assemble import assemble
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.loop import restore_or_create, train
from convnn_jax.training.record import RunRecord

VIT = ["--config.model.attention.num_heads=2", "--config.model.width=16", "--config.model.mlp_dim=16"]
VIT += ["--config.model.depth=1", "--config.batch_size=128", "--config.num_epochs=2", "--config.log_every=11"]
VIT += ["--config.optimizer.warmup_epochs=0"]
SWIN = ["--config.model.depths=(1,1)", "--config.model.width=8", "--config.model.attention.num_heads=(1,2)"]
DIGITS = "configs/vit_finetune.py:tiny,digits"


def load(*words, config=DIGITS, model=VIT):
  return config_lib.load(config, [*model, *words])


def placed(shapes, scale=1.0):
  """Random numbers in the shapes, dtypes and places of a state's parameters."""
  rng = np.random.default_rng(0)
  draw = lambda leaf: (scale * rng.normal(size=leaf.shape)).astype(leaf.dtype)
  return jax.tree.map(lambda leaf: jax.device_put(draw(leaf), leaf.sharding), shapes)


@pytest.fixture
def saved(tmp_path):
  """Makes a run with checkpoints of steps 3 (the best) and 7: (folder, parameters of step 7); nothing is trained."""

  def make(config, name="saved"):
    pieces = assemble(config)
    folder = workdir.open_workdir(str(tmp_path / name), config)
    trees = {step: placed(pieces.state_shapes.params, scale) for step, scale in ((3, 2.0), (7, 1.0))}
    with Checkpoints(folder, keep=2) as checkpoints:
      for step, params in trees.items():
        items = {"params": {"params": params, "collections": {}}}
        metric = {3: 0.9, 7: 0.5}[step]
        checkpoints.save(step, items, RunRecord().to_meta(), metric=metric, finish="now")
    return str(folder), trees[7]

  return make


def state_of(config):
  """The state that a new run with this config begins with, and the lines that it prints."""
  pieces = assemble(config)
  start = init_from.plan(config, pieces)
  zeros = jax.tree.map(
    lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), pieces.state_shapes
  )
  return init_from.started(zeros, start, pieces), start.lines


def test_all_parameters_are_taken_and_nothing_else(saved):
  folder, params = saved(load())
  state, lines = state_of(load(f"--config.init_from={folder}", "--config.optimizer.ema_decay=0.9"))
  jax.tree.map(np.testing.assert_array_equal, state.params, params)
  jax.tree.map(np.testing.assert_array_equal, state.ema, params)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
  assert int(state.step) == 0
  assert lines == [f"starting from step 7 of {folder}"]


def test_the_best_or_a_numbered_step(saved):
  folder, params = saved(load())
  for step in ("best", "3"):
    state, lines = state_of(load(f"--config.init_from={folder}:{step}"))
    twice = jax.tree.map(lambda leaf: 2 * np.asarray(leaf), params)
    jax.tree.map(np.testing.assert_array_equal, state.params, twice)
    assert lines[0] == f"starting from step 3 of {folder}"


def test_positions_and_head_follow_the_new_run(saved):
  small = ["--config.model.patch_size=8", "--config.data.image_size=16"]
  folder, params = saved(load(*small, config="configs/vit_finetune.py:tiny,cifar10"))
  words = ["--config.data.image_size=24", "--config.model.patch_size=8", f"--config.init_from={folder}"]
  words += ["--config.model.dropout_rate=0.2"]
  state, lines = state_of(load(*words, config="configs/vit_finetune.py:tiny,cifar100"))
  table = params["position_embedding"]["table"]
  new = state.params["position_embedding"]["table"]
  np.testing.assert_array_equal(new[0], table[0])
  np.testing.assert_allclose(new[1:], resize_table(table[1:], (2, 2), (3, 3)), atol=1e-6)
  assert not np.any(state.params["head"]["kernel"])
  np.testing.assert_array_equal(
    state.params["block_0"]["norm1"]["scale"], params["block_0"]["norm1"]["scale"]
  )
  assert lines[1:] == [
    "head: 10 classes there, 100 here; it starts from zero",
    "position_embedding/table: resized from 2 x 2 to 3 x 3 (bicubic)",
    "its config has other values (there -> here): model.dropout_rate: 0.0 -> 0.2",
  ]


def test_tables_of_swin_follow_the_window(saved):
  folder, params = saved(load(config="configs/swin_nano.py:digits", model=SWIN))
  words = ["--config.model.window_size=(8,8)", f"--config.init_from={folder}"]
  state, lines = state_of(load(*words, config="configs/swin_nano.py:digits", model=SWIN))
  path = lambda tree: tree["stage_0"]["block_0"]["attention"]["relative_bias_table"]
  np.testing.assert_allclose(path(state.params), resize_table(path(params), (7, 7), (15, 15)), atol=1e-6)
  assert "stage_0/block_0/attention/relative_bias_table: resized from 4 x 4 to 8 x 8 (bicubic)" in lines


def test_one_line_for_many_tables_and_mismatches_of_every_kind():
  shape = lambda *sides: np.broadcast_to(np.float32(0), sides)
  spec = dict(name="swin", patch_size=1, window_size=(8, 8), width=4, depths=(2, 1))
  tables = [f"stage_0/block_{i}/attention/relative_bias_table" for i in (0, 1)]
  there = {table: shape(49, 2) for table in tables} | {
    "a": shape(3),
    "b": shape(3),
    "head/kernel": shape(4, 5),
  }
  here = {table: shape(225, 2) for table in tables} | {
    "b": shape(4),
    "c": shape(1),
    "head/kernel": shape(8, 5),
  }
  changes, problems = transfer.plan(there, here, spec, (8, 8))
  assert transfer.lines(changes) == [f"{tables[0]} and 1 more: resized from 4 x 4 to 8 x 8 (bicubic)"]
  assert problems == [
    "a (3,) is only there",
    "b is (3,) there, (4,) here",
    "c (1,) is not there",
    "head/kernel is (4, 5) there, (8, 5) here",
  ]


def test_mistakes_are_named_before_anything_is_written(saved, tmp_path):
  folder, _ = saved(load())
  file = tmp_path / "vit.npz"
  file.touch()
  (tmp_path / "empty").mkdir()
  workdir.open_workdir(str(tmp_path / "fresh"), load())
  wider = "--config.model.width=32"
  for words, message in (
    (
      (wider, f"--config.init_from={folder}"),
      r"block_0/.* is \(2, 8\) there, \(2, 16\) here; .* model.width: 16 -> 32",
    ),
    (
      ("--config.model.depth=2", f"--config.init_from={folder}"),
      "block_1/.* is not there.*model.depth: 1 -> 2",
    ),
    ((f"--config.init_from={file}",), "is a file.*python -m convnn_jax.convert"),
    ((f"--config.init_from={tmp_path}/savde",), "config.init_from=.*holds no run.*Runs in .*: fresh, saved"),
    ((f"--config.init_from={tmp_path}/fresh",), "has no checkpoint yet"),
    ((f"--config.init_from={folder}:5",), "No checkpoint of step 5"),
  ):
    with pytest.raises(UserError, match=message):
      train(load(*words), tmp_path / "new")
    assert not (tmp_path / "new").exists()
  with pytest.raises(UserError, match="--vmap trains from new parameters only"):
    members.Members([load(f"--config.init_from={folder}")])


def test_an_interrupted_run_goes_on_from_its_own_checkpoint(saved, tmp_path, one_device, capsys):
  """Not from init_from, which may be gone by then; and it ends as it ended before."""
  folder, _ = saved(load())
  config = load(f"--config.init_from={folder}")
  with one_device():
    whole = train(config, tmp_path / "run")
    assert f"starting from step 7 of {folder}" in capsys.readouterr().out
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "22")
    (tmp_path / "run" / "result.json").unlink()
    again = train(config, tmp_path / "run")
  out = capsys.readouterr().out
  assert "going on after step 11 of 22" in out
  assert f"starting from step 7 of {folder}" not in out
  assert again["params_digest"] == whole["params_digest"]
  with pytest.raises(UserError, match="init_from: '.*saved' -> ''"):
    train(load(), tmp_path / "run")
  assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == folder


def test_without_init_from_nothing_changes(tmp_path):
  pieces = assemble(load())
  assert init_from.plan(load(), pieces) is None
  with Checkpoints(tmp_path / "run") as checkpoints:
    state, _ = restore_or_create(pieces, checkpoints)
  new = pieces.create_state()
  assert flat(state.params).keys() == flat(new.params).keys()
  jax.tree.map(np.testing.assert_array_equal, state.params, new.params)

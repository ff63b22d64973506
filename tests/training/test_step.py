"""The update as a pure function: accumulation, averages, skipped updates, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax import data
from convnn_jax.attention import ATTENTIONS
from convnn_jax.training import assemble as assemble_lib
from convnn_jax.training import config as config_lib
from convnn_jax.training import sharding
from convnn_jax.training.assemble import assemble
from convnn_jax.training.evaluate import Evaluator
from convnn_jax.training.loop import make_update
from convnn_jax.training.step import make_eval_step


def setup(config):
  pieces = assemble(config)
  dataset = data.open_dataset(config.data)
  by_batch = sharding.batch_sharding(pieces.mesh)
  resident = data.resident(dataset.train, by_batch)
  batches = data.train_batches(
    dataset.train, seed=config.seed, batch_size=config.batch_size, start_step=0, sharding=by_batch
  )
  return pieces, make_update(pieces, config), pieces.create_state(), resident, batches


def losses(config, steps, dtype=jnp.float32):
  """The losses of some updates, and the state after them; `dtype` of parameters and moments."""
  _, update, state, resident, batches = setup(config)
  state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)
  seen = []
  for _, batch in zip(range(steps), batches, strict=False):
    state, metrics = update(state, resident, batch)
    seen.append(float(metrics["loss"]))
  return seen, state


@pytest.mark.parametrize("attention", ["convnn", "softmax"])
def test_eight_devices_give_the_losses_of_one(small_config, attention, one_device):
  """With dropout and augmentation on; the first 20 steps, float32."""
  overrides = ("--config.data.augment=('crop',)", "--config.model.depth=2")  # blocks as a loop
  eight, _ = losses(small_config(*overrides, attention=attention), 20)
  with one_device():
    one, _ = losses(small_config(*overrides, attention=attention), 20)
  np.testing.assert_allclose(eight, one, atol=1e-5, rtol=1e-5)
  assert eight[-1] < eight[0]


# tests/attention/test_common.py compares every attention by itself in the fast tests.
@pytest.mark.slow
@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_eight_devices_give_the_losses_of_one_in_float64(small_config, attention, one_device, monkeypatch):
  """Neighbours that are nearly equally near change places by rounding: in float32 one loss in some hundred jumps."""
  make_model = assemble_lib.make_model
  wide = lambda spec, **rest: make_model(spec, **(rest | dict(dtype=jnp.float64)))
  monkeypatch.setattr(assemble_lib, "make_model", wide)
  overrides = ("--config.data.augment=('crop',)", "--config.model.depth=2")
  with jax.enable_x64(True):
    eight, _ = losses(small_config(*overrides, attention=attention), 20, dtype=jnp.float64)
    with one_device():
      one, _ = losses(small_config(*overrides, attention=attention), 20, dtype=jnp.float64)
  np.testing.assert_allclose(eight, one, atol=1e-10, rtol=1e-10)
  assert eight[-1] < eight[0]


def test_parameters_can_be_cut_over_devices(small_config):
  loop = "--config.model.depth=2"
  plain, state = losses(small_config(loop), 6)
  cut, cut_state = losses(small_config(loop, "--config.mesh.fsdp=2", "--config.mesh.tensor=2"), 6)
  np.testing.assert_allclose(cut, plain, atol=1e-5, rtol=1e-5)
  kernel = cut_state.params["block_0"]["mlp"]["out"]["kernel"]
  assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4
  moments = [
    leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(cut_state.opt_state)
    if jax.tree_util.keystr(path).endswith("['mlp']['out']['kernel']")
  ]
  assert moments
  assert all(leaf.sharding == kernel.sharding for leaf in moments)


# Adam would hide a gradient that is twice what it should be, which sharded convolutions have been seen to give.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["branching_conv", "cct_2_3x2", "cnn", "conv1d", "hybrid", "swin_nano"])
def test_plain_gradient_steps_with_parameters_cut_over_devices(name, one_device):
  overrides = (
    "--config.batch_size=32",
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=0.02",
    "--config.optimizer.warmup_epochs=0",
  )
  load = lambda *more: config_lib.load(f"configs/{name}.py:digits", (*overrides, *more))
  cut, _ = losses(load("--config.mesh.tensor=2"), 4)
  with one_device():
    one, _ = losses(load(), 4)
  np.testing.assert_allclose(cut, one, atol=1e-4, rtol=1e-4)
  assert len(set(one)) == 4


def test_accumulated_gradients_equal_the_whole_batch(small_config):
  quiet = (
    "--config.data.augment=()",
    "--config.model.dropout_rate=0.0",
    "--config.model.attention.dropout_rate=0.0",
  )
  whole, _ = losses(small_config(*quiet), 6)
  parts, _ = losses(small_config(*quiet, "--config.optimizer.accumulate=4"), 6)
  np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_an_update_that_is_not_finite_is_left_out_and_counted(small_config):
  _, update, state, resident, batches = setup(small_config("--config.optimizer.ema_decay=0.9"))
  batch = next(batches)
  state, _ = update(state, resident, batch)
  copy = lambda tree: jax.tree.map(jnp.copy, tree)  # the update takes the memory of what it is given
  broken = copy(state).replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
  after, metrics = update(broken, resident, batch)
  assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (1, 1)
  assert int(after.step) == int(state.step) + 1
  jax.tree.map(np.testing.assert_array_equal, (after.opt_state, after.ema), (state.opt_state, state.ema))
  healed, metrics = update(after.replace(params=copy(state.params)), resident, batch)
  assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (1, 0)
  assert np.isfinite(metrics["loss"])
  assert not np.array_equal(healed.params["head"]["kernel"], state.params["head"]["kernel"])


def test_average_of_parameters_follows_its_formula(small_config):
  _, update, state, resident, batches = setup(small_config("--config.optimizer.ema_decay=0.9"))
  expected = np.asarray(state.params["head"]["kernel"])
  for _, batch in zip(range(3), batches, strict=False):
    state, _ = update(state, resident, batch)
    expected = 0.9 * expected + 0.1 * np.asarray(state.params["head"]["kernel"])
  np.testing.assert_allclose(state.ema["head"]["kernel"], expected, rtol=1e-5)
  assert state.evaluated_params is state.ema


def test_checkpoint_items_and_back(small_config):
  for decay in (0.0, 0.9):
    _, _, state, _, _ = setup(small_config(f"--config.optimizer.ema_decay={decay}"))
    again = state.with_checkpoint_items(state.checkpoint_items())
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_evaluation_gives_one_value_per_example(small_config):
  config = small_config()
  pieces, _, state, _, _ = setup(config)
  test = data.open_dataset(config.data).test
  by_batch = sharding.batch_sharding(pieces.mesh)
  resident = data.resident(test, by_batch)
  step = jax.jit(make_eval_step(pieces.model, config, pieces.info))
  for batch in data.eval_batches(test, batch_size=200, sharding=by_batch):
    result = step({"params": state.params}, resident, batch)
    assert {name: value.shape for name, value in result.items()} == dict.fromkeys(
      ("loss", "top1", "top5", "mask"), (200,)
    )
    assert ((result["top1"] == 0) | (result["top1"] == 1)).all()
    assert (result["top5"] >= result["top1"]).all()


def test_training_and_evaluation_are_compiled_once_and_move_nothing_unasked(small_config):
  config = small_config("--config.model.depth=2")
  pieces, update, state, resident, batches = setup(config)
  test = data.open_dataset(config.data).test
  of_test = data.resident(test, sharding.batch_sharding(pieces.mesh))
  evaluate = Evaluator(pieces, config, test, of_test)
  for _, batch in zip(range(3), batches, strict=False):
    with jax.transfer_guard("disallow"):
      state, metrics = update(state, resident, batch)
    jax.block_until_ready(metrics)  # simulated devices: one step at a time
    evaluate({"params": state.params})
  assert (update._cache_size(), evaluate._step._cache_size()) == (1, 1)

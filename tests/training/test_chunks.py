"""Several steps per call: the run is the one of single steps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax import data
from convnn_jax.errors import UserError
from convnn_jax.training import chunks, members, sharding
from convnn_jax.training.assemble import assemble
from convnn_jax.training.interrupt import Interruption
from convnn_jax.training.loop import make_update, train


def test_chunks_end_where_something_is_due():
  plan = lambda *args, **kwargs: [(r[0], r[-1]) for r in chunks.plan(*args, **kwargs)]
  assert plan(0, 10, 4, [5]) == [(1, 4), (5, 5), (6, 9), (10, 10)]
  assert plan(3, 10, 4, [5, 2]) == [(4, 4), (5, 5), (6, 6), (7, 8), (9, 10)]
  assert plan(0, 7, 100, [50], ends=(2, 6)) == [(1, 2), (3, 6), (7, 7)]
  assert plan(7, 7, 3, [5]) == []
  every = [step for steps in chunks.plan(11, 200, 7, [50, 13]) for step in steps]
  assert every == list(range(12, 201))


FIELDS = (
  "--config.log_every=4",
  "--config.num_epochs=1",
  "--config.data.augment=('crop',)",
)


def history(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_alike(one, other):
  """Same rows; values to what single precision may lose in another order of sums."""
  assert [(row["step"], row["part"]) for row in one] == [(row["step"], row["part"]) for row in other]
  for a, b in zip(one, other, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"part"}:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_run_in_chunks_is_the_run_in_steps(small_config, one_device, tmp_path, monkeypatch):
  """Interrupted in between, and with another size of chunks after that."""
  with one_device():
    single = train(small_config(*FIELDS), tmp_path / "single")
    with monkeypatch.context() as patch:
      patch.setattr(Interruption, "agreed", lambda self, step, checkpoints: step >= 6)
      parts = tmp_path / "parts"
      assert train(small_config(*FIELDS, "--config.steps_per_call=3"), parts) is None
    stopped = history(parts)
    assert stopped[-1]["step"] == 7  # the chunk of step 6 is done
    finished = train(small_config(*FIELDS, "--config.steps_per_call=5"), parts)
  assert {row["step"] for row in history(tmp_path / "single") if row["part"] == "train"} == {4, 8, 11}
  assert_alike([row for row in history(parts) if row["step"] != 7], history(tmp_path / "single"))
  assert finished["steps"] == single["steps"] == 11
  np.testing.assert_allclose(finished["test_loss"], single["test_loss"], rtol=1e-4)


def setup(config):
  pieces = assemble(config)
  dataset = data.open_dataset(config.data)
  by_batch = sharding.batch_sharding(pieces.mesh)
  resident = data.resident(dataset.train, by_batch)
  batches = data.train_chunks(
    dataset.train,
    seed=config.seed,
    batch_size=config.batch_size,
    chunks=[range(1, 4), range(4, 5), range(5, 7)],
    size=3,
    sharding=by_batch,
  )
  return make_update(pieces, config), pieces.create_state(), resident, batches


def test_updates_that_are_not_finite_are_left_out_and_counted(small_config):
  """On eight devices; chunks of three lengths by one program, without anything moved unasked."""
  update, state, resident, batches = setup(small_config("--config.steps_per_call=3"))
  healthy = jax.tree.map(jnp.copy, state.params)
  state = state.replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
  kept = jax.tree.map(np.asarray, state.opt_state)
  batch = next(batches)
  with jax.transfer_guard("disallow"):
    state, metrics = update(state, resident, batch)
  assert metrics["skipped"].tolist() == metrics["skipped_in_a_row"].tolist() == [1, 2, 3]
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, kept)
  state, metrics = update(state.replace(params=healthy), resident, next(batches))
  jax.block_until_ready(metrics)
  assert (int(state.step), int(metrics["skipped_in_a_row"][0])) == (4, 0)
  state, metrics = update(state, resident, next(batches))
  rows = chunks.by_step([(range(5, 7), metrics)])
  assert len(rows) == 2
  assert int(state.step) == 6
  assert all(np.isfinite(row["loss"]) for row in rows)
  assert update._cache_size() == 1


def test_impossible_values_are_refused(small_config, tmp_path):
  with pytest.raises(UserError, match="config.steps_per_call=0 must be at least 1"):
    assemble(small_config("--config.steps_per_call=0"))
  for part in ("train", "test"):
    (tmp_path / part / "a").mkdir(parents=True)
    for number in range(128):
      (tmp_path / part / "a" / f"{number}.png").touch()
  folder = ("--config.data.name=folder", f"--config.data.data_dir={tmp_path}", "--config.steps_per_call=8")
  with pytest.raises(
    UserError, match="steps_per_call=8 needs images that lie on the device.*Use steps_per_call=1"
  ):
    assemble(small_config(*folder))
  with pytest.raises(UserError, match="steps_per_call=2 must be 1"):
    members.Members([small_config("--config.steps_per_call=2")])

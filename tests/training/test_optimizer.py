"""Schedules, optimisers and losses against plain formulas."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from convnn_jax.errors import UserError
from convnn_jax.training.losses import make_loss, share_correct, top_k_correct
from convnn_jax.training.optimizer import DECAYS, decay_mask, make_optimizer, make_schedule


def section(**changes):
  config = base.get_config().optimizer
  config.update(changes)
  return config


def test_schedules_follow_their_formulas():
  steps = np.arange(100)
  constant = make_schedule(section(learning_rate=0.5), 10, 100)
  np.testing.assert_allclose([constant(s) for s in steps], 0.5)
  cosine = make_schedule(
    section(schedule="cosine", learning_rate=2.0, final_learning_rate=0.2, warmup_epochs=1.0), 10, 100
  )
  expected = [
    2.0 * (s + 1) / 10 if s < 10 else 0.2 + 0.9 * (1 + np.cos(np.pi * (s - 10) / 90)) for s in steps
  ]
  np.testing.assert_allclose([cosine(s) for s in steps], expected, rtol=1e-5)
  step = make_schedule(
    section(schedule="step", learning_rate=1.0, decay_every=3.0, decay_factor=0.5), 10, 100
  )
  np.testing.assert_allclose([step(s) for s in steps], 0.5 ** (steps // 30), rtol=1e-5)


def test_plateau_lowers_the_rate_when_the_loss_stays():
  config = section(
    name="sgd",
    momentum=0.0,
    schedule="plateau",
    learning_rate=1.0,
    decay_every=2.0,
    decay_factor=0.1,
    weight_decay=0.0,
    clip_norm=0.0,
  )
  optimizer, _ = make_optimizer(config, steps_per_epoch=5, num_steps=100)
  params = {"x": jnp.zeros(())}
  state = optimizer.init(params)
  sizes = []
  for epoch in range(8):
    loss = 1.0 / (epoch + 1) if epoch < 3 else 1.0  # improves for 3 epochs, then not
    for _ in range(5):
      updates, state = optimizer.update({"x": jnp.ones(())}, state, params, value=jnp.asarray(loss))
    sizes.append(float(-updates["x"]))
  # Epochs 4 and 5 are no better than epoch 3: a tenth of the rate; two more: a hundredth.
  assert sizes == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-3)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_weight_decay_where_it_belongs(name):
  """First step with a zero gradient: adamw shrinks by lr * decay; adam and sgd see decay * p as gradient."""
  params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((2,), 2.0)}
  zeros = jax.tree.map(jnp.zeros_like, params)
  expected = {"adamw": 0.1 * 0.5 * 2.0, "adam": 0.1, "sgd": 0.1 * 0.5 * 2.0}[name]
  for decay, on_bias in (("all", expected), ("kernels", 0.0)):
    config = section(name=name, learning_rate=0.1, weight_decay=0.5, decay=decay)
    optimizer, _ = make_optimizer(config, 10, 100)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params, value=jnp.zeros(()))
    np.testing.assert_allclose(-updates["kernel"], expected, rtol=1e-4)
    np.testing.assert_allclose(-updates["bias"], on_bias, rtol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
  config = section(name="sgd", momentum=0.0, learning_rate=1.0, weight_decay=0.0, clip_norm=1.0)
  optimizer, _ = make_optimizer(config, 10, 100)
  params = {"a": jnp.zeros(3), "b": jnp.zeros(4)}
  grads = {"a": jnp.full(3, 3.0), "b": jnp.full(4, 3.0)}
  updates, _ = optimizer.update(grads, optimizer.init(params), params, value=jnp.zeros(()))
  assert float(optax.tree.norm(updates)) == pytest.approx(1.0, rel=1e-5)


def test_losses_against_loops():
  logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
  labels = np.array([0, 3, 1, 1, 2])
  config = base.get_config().loss
  for smoothing in (0.0, 0.1):
    expected = []
    for row, label in zip(logits, labels, strict=True):
      target = np.full(4, smoothing / 4)
      target[label] += 1 - smoothing
      expected.append(-np.sum(target * (row - np.log(np.sum(np.exp(row))))))
    got = make_loss(config)(logits, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
  config.name = "mse"
  expected = ((logits - np.eye(4)[labels]) ** 2).mean(axis=-1)
  np.testing.assert_allclose(make_loss(config)(logits, labels), expected, rtol=1e-5)


def test_top_k_counts_ties_by_class_number_and_never_nan():
  logits = jnp.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [jnp.nan, 1.0, 0.0], [jnp.nan] * 3])
  for labels, k, expected in (
    ([1, 0, 1, 0], 1, [1, 1, 0, 0]),
    ([2, 1, 1, 1], 1, [0, 0, 0, 0]),
    ([2, 1, 1, 1], 2, [1, 1, 1, 0]),
    ([0, 2, 2, 2], 3, [1, 1, 1, 0]),
  ):
    np.testing.assert_array_equal(top_k_correct(logits, jnp.array(labels), k), expected)


def test_a_hyperbolic_warmup_once_per_epoch():
  """Peak / 5, / 4, / 3, / 2, / 1, then a cosine that ends above 0; every step of an epoch has one rate."""
  config = section(
    schedule="cosine", schedule_unit="epoch", warmup="hyperbolic", warmup_epochs=5.0, learning_rate=1.0
  )
  schedule = make_schedule(config, 7, 7 * 30)
  epochs = np.arange(30)
  cosine = 0.5 * (1 + np.cos(np.pi * (epochs - 5) / 25))
  expected = np.where(epochs < 5, 1 / np.maximum(5 - epochs, 1), cosine)
  got = np.array([[schedule(7 * e + s) for s in (0, 6)] for e in epochs])
  np.testing.assert_allclose(got, np.stack([expected] * 2, axis=1), rtol=1e-5, atol=1e-7)
  assert got[-1, 0] > 0


def test_a_warmup_that_replaces_the_beginning_and_a_cooldown():
  config = section(
    schedule="cosine",
    schedule_unit="epoch",
    warmup_epochs=10.0,
    warmup_learning_rate=1e-5,
    learning_rate=5.5e-4,
    final_learning_rate=1e-5,
    decay_from="start",
    cooldown_epochs=10.0,
  )
  schedule = make_schedule(config, 3, 3 * 310)
  epochs = np.arange(310)
  cosine = 1e-5 + 0.5 * (5.5e-4 - 1e-5) * (1 + np.cos(np.pi * epochs / 300))
  expected = np.where(epochs < 10, 1e-5 + (5.5e-4 - 1e-5) * epochs / 10, np.where(epochs < 300, cosine, 1e-5))
  np.testing.assert_allclose([schedule(3 * e) for e in epochs], expected, rtol=1e-4)


SWIN = pathlib.Path(__file__).parents[1] / "golden" / "swin"


def test_swins_published_schedule():
  for case in json.loads((SWIN / "lr_schedule.json").read_text()):
    config = section(
      schedule="cosine",
      learning_rate=case["base_lr"],
      warmup_learning_rate=case["warmup_lr"],
      final_learning_rate=case["min_lr"],
      warmup_epochs=float(case["warmup_steps"]),
    )
    schedule = make_schedule(config, 1, case["total_steps"])
    np.testing.assert_allclose([schedule(t) for t in case["t"]], case["lr"], rtol=2e-5, atol=2e-9)


def test_rates_grow_with_the_batch_where_the_config_says_so():
  rates = dict(learning_rate=5e-4, warmup_learning_rate=5e-7, final_learning_rate=5e-6, warmup_epochs=2.0)
  config = section(schedule="cosine", learning_rate_batch=512, **rates)
  _, schedule = make_optimizer(config, 10, 100, 1024)
  np.testing.assert_allclose([schedule(t) for t in (0, 20, 100)], [1e-6, 1e-3, 1e-5], rtol=1e-5)
  _, schedule = make_optimizer(section(schedule="cosine", **rates), 10, 100, 1024)
  np.testing.assert_allclose([schedule(t) for t in (0, 20, 100)], [5e-7, 5e-4, 5e-6], rtol=1e-5)


def test_swins_published_decay():
  """Names as published; norms' and position tables' axes as they are there."""
  table = json.loads((SWIN / "weight_decay_mask.json").read_text())["decays"]
  for decays in table.values():
    tree = {}
    for name in decays:
      vector = "norm" in name or name.endswith(("bias", "q_bias", "v_bias"))
      tree[name] = np.zeros((2,) if vector else (2, 2))
    nested = {
      name: {"kernel" if name.endswith("weight") else name.split(".")[-1]: leaf}
      for name, leaf in tree.items()
    }
    got = {name: next(iter(leaf.values())) for name, leaf in decay_mask("swin", nested).items()}
    assert got == decays


def test_words_of_decay():
  params = {
    "position_embedding": {"table": np.zeros((4, 2))},
    "class_token": np.zeros((1, 1, 2)),
    "query": {"kernel": np.zeros((2, 1, 2)), "bias": np.zeros((1, 2))},
    "norm": {"scale": np.zeros(2)},
    "relative_position_weight_table": np.zeros((9, 1)),
    "attention": {
      "relative_bias_table": np.zeros((9, 1)),
      "rel_pos_weight_mlp": {"kernel": np.zeros((2, 4))},
    },
    "cpb_mlp": {"hidden": {"kernel": np.zeros((2, 4))}},
  }
  leaves = lambda word: jax.tree_util.tree_leaves_with_path(decay_mask(word, params))
  decaying = {word: {jax.tree_util.keystr(path) for path, on in leaves(word) if on} for word in DECAYS}
  kernels = {
    "['query']['kernel']",
    "['cpb_mlp']['hidden']['kernel']",
    "['attention']['rel_pos_weight_mlp']['kernel']",
  }
  free = {"['position_embedding']['table']", "['class_token']", "['relative_position_weight_table']"}
  assert len(decaying["all"]) == 9
  assert decaying["kernels"] == kernels
  assert decaying["matrices"] == kernels | free | {"['attention']['relative_bias_table']"}
  assert decaying["swin"] == {"['query']['kernel']", "['class_token']", "['relative_position_weight_table']"}


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"warmup": "hyper"}, "Did you mean 'hyperbolic'"),
    ({"schedule_unit": "epochs"}, "Did you mean 'epoch'"),
    ({"decay_from": "end"}, "Unknown optimizer.decay_from 'end'"),
    ({"decay": "matrix"}, "Did you mean 'matrices'"),
    (
      {"warmup": "hyperbolic", "warmup_epochs": 2.0, "warmup_learning_rate": 1e-6},
      "belongs to warmup='linear'",
    ),
    ({"warmup_learning_rate": 1.0}, "must be at most"),
    ({"cooldown_epochs": -1.0}, "cooldown_epochs=-1.0"),
    ({"cooldown_epochs": 8.0, "warmup_epochs": 3.0}, "with the warm-up, but the whole run has 100"),
    ({"learning_rate_batch": -1}, "learning_rate_batch=-1"),
  ],
)
def test_mistaken_schedules(fields, message):
  with pytest.raises(UserError, match=message):
    make_optimizer(section(**fields), 10, 100, 32)


def test_losses_and_accuracy_of_shares():
  logits = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
  one, two, share = np.array([0, 3, 1, 1, 2]), np.array([1, 3, 0, 2, 2]), 0.3
  targets = share * np.eye(4)[one] + (1 - share) * np.eye(4)[two]
  config = base.get_config().loss
  loss = make_loss(config)
  both = [loss(logits, labels, label_smoothing=0.1) for labels in (one, two)]
  mixed = share * both[0] + (1 - share) * both[1]
  np.testing.assert_allclose(loss(logits, targets, label_smoothing=0.1), mixed, rtol=1e-5)
  correct = [np.asarray(top_k_correct(logits, jnp.asarray(labels), 1)) for labels in (one, two)]
  np.testing.assert_allclose(
    share_correct(logits, targets), share * correct[0] + (1 - share) * correct[1], rtol=1e-6
  )
  broken = jnp.array([[jnp.nan, 1.0], [0.0, 0.0], [0.0, 2.0]])
  np.testing.assert_array_equal(
    share_correct(broken, jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])), [0, 1, 1]
  )

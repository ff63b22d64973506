"""Schedules, optimisers and losses against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import base
from convnn_jax.training.losses import make_loss, top_k_correct
from convnn_jax.training.optimizer import make_optimizer, make_schedule


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

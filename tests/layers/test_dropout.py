"""The mask of the counter hash: its rate, and that nothing about it is predictable from its neighbours."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.layers.dropout import Dropout, keep_mask

SIZE = 1 << 18
mask = fast_jit(keep_mask, static_argnums=(1, 2))


def _signs(seed, shape=(SIZE,), rate=0.5):
  """+1 kept, -1 dropped, flat."""
  return np.where(np.asarray(mask(jax.random.key(seed), shape, rate)), 1.0, -1.0).reshape(-1)


def _unrelated(a, b, deviations=5.0):
  """The correlation of two sequences of independent signs has a deviation of 1 / sqrt(n)."""
  return abs(np.mean(a * b)) < deviations / np.sqrt(len(a))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_rate(rate):
  for seed in range(4):
    kept = np.mean(np.asarray(mask(jax.random.key(seed), (SIZE,), rate)))
    assert abs(kept - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / SIZE)


def test_rate_of_rows_and_columns():
  kept = np.asarray(mask(jax.random.key(3), (1024, 256), 0.1))
  for axis, count in ((0, 1024), (1, 256)):
    deviation = (np.mean(kept, axis=axis) - 0.9) / np.sqrt(0.09 / count)
    assert np.max(np.abs(deviation)) < 5  # of 1024 normal numbers
    assert 0.85 < np.std(deviation) < 1.15  # neither clumped nor evened out


def test_elements_are_independent():
  signs = _signs(0)
  for lag in (1, 2, 3, 4, 7, 8, 16, 64, 192, 197, 256, 768, 1 << 12, 1 << 16):
    assert _unrelated(signs[lag:], signs[:-lag]), lag
  # Runs of three: each of 8 patterns as often.
  bits = (signs[: SIZE // 3 * 3].reshape(-1, 3) > 0) @ np.array([4, 2, 1])
  expected = len(bits) / 8
  assert np.sum((np.bincount(bits, minlength=8) - expected) ** 2 / expected) < 29.9  # 7 degrees, 1e-4


def test_steps_and_layers_are_independent():
  """Their keys differ by what they were folded with, as in a training step."""
  from convnn_jax.training.step import step_rngs

  class Layers(nn.Module):
    @nn.compact
    def __call__(self, x):
      return [Dropout(0.5)(x, deterministic=False) for _ in range(3)]

  ones = jnp.ones(SIZE // 4)
  run = fast_jit(lambda step: Layers().apply({}, ones, rngs={"dropout": step_rngs(0, step)["dropout"]}))
  masks = [np.asarray(layer) - 1 for step in (0, 1, 2, 100) for layer in run(step)]
  for i, a in enumerate(masks):
    assert set(np.unique(a)) == {-1.0, 1.0}
    for b in masks[:i]:
      assert _unrelated(a, b)


def test_keys_that_differ_in_little_give_unrelated_masks():
  key = jax.random.key(0)
  made = [jax.random.key(seed) for seed in range(4)] + [jax.random.fold_in(key, i) for i in range(4)]
  for word, bit in ((0, 0), (0, 31), (1, 0), (1, 15), (1, 31)):
    words = np.zeros(2, np.uint32)
    words[word] = np.uint32(1 << bit)
    made.append(jax.random.wrap_key_data(jnp.asarray(words)))
  different = {tuple(np.asarray(jax.random.key_data(key)).tolist()): key for key in made}
  signs = [np.where(np.asarray(mask(key, (SIZE,), 0.5)), 1.0, -1.0) for key in different.values()]
  for i, a in enumerate(signs):
    for b in signs[:i]:
      assert _unrelated(a, b)
      assert _unrelated(a[1:], b[:-1])


def test_the_mask_does_not_depend_on_the_layout_of_devices():
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  x = jnp.ones((16, 5, 3))
  apply = lambda x: Dropout(0.3).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(1)})
  spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  np.testing.assert_array_equal(jax.jit(apply)(spread), jax.jit(apply)(x))


def test_expectation_gradient_and_limits():
  x = jnp.asarray(np.random.default_rng(0).standard_normal(SIZE), jnp.float32)
  apply = lambda x, rate=0.25, **kw: Dropout(rate).apply({}, x, rngs={"dropout": jax.random.key(2)}, **kw)
  out = apply(x, deterministic=False)
  kept = np.asarray(out != 0)
  np.testing.assert_allclose(np.asarray(out)[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(apply(x, deterministic=False)))(x)
  np.testing.assert_array_equal(np.asarray(gradient) != 0, kept)
  np.testing.assert_array_equal(apply(x, deterministic=True), x)
  np.testing.assert_array_equal(apply(x, rate=0.0, deterministic=False), x)
  with pytest.raises(UserError, match="must lie in"):
    apply(x, rate=1.0, deterministic=False)

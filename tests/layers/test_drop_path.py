import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.errors import UserError
from convnn_jax.layers.drop_path import DropPath, drop_path_rates


def apply(x, rate, seed=0, deterministic=False):
  return DropPath(rate).apply({}, x, deterministic=deterministic, rngs={"drop_path": jax.random.key(seed)})


def test_whole_examples_are_dropped_and_the_mean_is_kept():
  out = np.asarray(apply(jnp.ones((20_000, 2, 3)), 0.25))
  per_example = out.reshape(len(out), -1)
  assert np.all(per_example == per_example[:, :1])
  assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
  assert abs(np.mean(out == 0) - 0.25) < 0.01


def test_evaluation_and_rate_zero_change_nothing():
  x = jnp.arange(6.0).reshape(3, 2)
  assert apply(x, 0.9, deterministic=True) is x
  assert apply(x, 0.0) is x


def test_another_key_drops_others():
  x = jnp.ones((100, 1))
  assert not np.array_equal(apply(x, 0.5, seed=0), apply(x, 0.5, seed=1))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rates_are_refused(rate):
  with pytest.raises(UserError, match="drop_path_rate"):
    apply(jnp.ones((1, 1)), rate)


def test_rates_rise_evenly():
  np.testing.assert_allclose(drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
  assert drop_path_rates(0.3, 1) == [0.0]

"""Linear layers are products over axes, however a backend computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convnn_jax.layers.dense import dense, merge_dense, product, split_dense


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 0, 5)])
def test_product_and_gradients_are_those_of_the_general_form(leading, count):
  keys = jax.random.split(jax.random.key(0), 2)
  inner = (4, 6)[:count]
  x = jax.random.normal(keys[0], (*leading, *inner))
  kernel = jax.random.normal(keys[1], (*inner, 3, 7))
  last = tuple(range(x.ndim - count, x.ndim))
  numbers = ((last, tuple(range(count))), ((), ()))
  total = lambda multiply: lambda x, kernel: jnp.sum(jnp.sin(multiply(x, kernel, numbers)))
  np.testing.assert_allclose(product(x, kernel, numbers), lax.dot_general(x, kernel, numbers), atol=1e-5)
  ours, general = (jax.grad(total(f), argnums=(0, 1))(x, kernel) for f in (product, lax.dot_general))
  for mine, expected in zip(ours, general, strict=True):
    assert mine.shape == expected.shape
    np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.parametrize("contracted", [0, 1])
def test_other_axes_are_left_to_the_general_form(contracted):
  x, kernel = jnp.arange(9.0).reshape(3, 3), jnp.arange(6.0).reshape(3, 2)
  numbers = (((contracted,), (0,)), ((), ()))
  np.testing.assert_array_equal(product(x, kernel, numbers), np.tensordot(x, kernel, axes=(contracted, 0)))


def test_heads_are_split_and_merged_in_one_order():
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  split = split_dense(3, 4, 12, bias=False, name="split")
  merge = merge_dense(12, 12, bias=False, name="merge")
  plain = dense(12, 12, bias=False, name="plain")
  kernel = jax.random.normal(jax.random.key(1), (12, 12))
  heads = split.apply({"params": {"kernel": kernel.reshape(12, 3, 4)}}, x)
  flat = plain.apply({"params": {"kernel": kernel}}, x)
  np.testing.assert_array_equal(heads.reshape(2, 5, 12), flat)
  merged = merge.apply({"params": {"kernel": kernel.reshape(3, 4, 12)}}, heads)
  np.testing.assert_allclose(merged, plain.apply({"params": {"kernel": kernel}}, flat), atol=1e-5)

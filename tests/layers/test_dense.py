"""Linear layers are products over axes, however a backend computes them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convnn_jax.layers.dense import add_to_each, dense, merge_dense, product, split_dense
from convnn_jax.layers.init import linear_init


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


@pytest.mark.parametrize("leading", [(), (3,), (2, 0), (2, 5)])
def test_values_are_added_at_every_position(leading):
  keys = jax.random.split(jax.random.key(0), 2)
  x, values = jax.random.normal(keys[0], (*leading, 3, 7)), jax.random.normal(keys[1], (3, 7))
  plain = lambda x, values: x + jnp.broadcast_to(values, x.shape)
  total = lambda add: lambda x, values: jnp.sum(jnp.sin(add(x, values)))
  np.testing.assert_array_equal(add_to_each(x, values), plain(x, values))
  ours, expected = (jax.grad(total(add), argnums=(0, 1))(x, values) for add in (add_to_each, plain))
  for mine, theirs in zip(ours, expected, strict=True):
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_gradients_of_projections_are_put_side_by_side():
  """Padding each with zeros and adding them up would cost a pass over all of them for each."""
  x = jnp.ones((2, 5, 12))
  split = _Split(depth=4, bias=True)
  params = split.init(jax.random.key(0), dict.fromkeys("qkv", x))
  total = lambda params: sum(jnp.sum(y**2) for y in split.apply(params, dict.fromkeys("qkv", x)).values())
  program = str(jax.make_jaxpr(jax.grad(total))(params))
  assert " split[" in program
  assert " pad[" not in program


def test_values_of_another_shape_are_refused():
  with pytest.raises(ValueError, match="not for each position"):
    add_to_each(jnp.ones((2, 3, 7)), jnp.ones((3, 1)))


def test_heads_are_split_and_merged_in_one_order():
  x = jax.random.normal(jax.random.key(0), (2, 5, 12))
  merge = merge_dense(12, 12, bias=False, name="merge")
  plain = dense(12, 12, bias=False, name="plain")
  kernel = jax.random.normal(jax.random.key(1), (12, 12))
  heads = _Split(depth=4, bias=False).apply(
    {"params": {"value": {"kernel": kernel.reshape(12, 3, 4)}}}, dict(value=x)
  )
  flat = plain.apply({"params": {"kernel": kernel}}, x)
  np.testing.assert_array_equal(heads["value"].reshape(2, 5, 12), flat)
  merged = merge.apply({"params": {"kernel": kernel.reshape(3, 4, 12)}}, heads["value"])
  np.testing.assert_allclose(merged, plain.apply({"params": {"kernel": kernel}}, flat), atol=1e-5)


class _Split(nn.Module):
  depth: Any
  bias: Any

  @nn.compact
  def __call__(self, tokens):
    return split_dense(tokens, 3, self.depth, bias=self.bias)


class _Separate(nn.Module):
  """The same by one layer of linen each."""

  depth: Any
  bias: Any

  @nn.compact
  def __call__(self, tokens):
    return {
      name: nn.DenseGeneral(
        (3, self.depth[name]), use_bias=self.bias[name], **linear_init("uniform", x.shape[-1]), name=name
      )(x)
      for name, x in tokens.items()
    }


@pytest.mark.parametrize("shared", [("query", "key", "value"), ("key", "value"), ()])
def test_projections_of_one_array_are_those_of_separate_layers(shared):
  arrays = [jax.random.normal(jax.random.key(number), (2, 5, 12)) for number in range(3)]
  tokens = dict(zip(("query", "key", "value"), arrays, strict=True)) | dict.fromkeys(shared, arrays[2])
  options = dict(depth=dict(query=4, key=4, value=7), bias=dict(query=True, key=False, value=True))
  split, separate = _Split(**options), _Separate(**options)
  params = split.init(jax.random.key(9), tokens)
  jax.tree.map(np.testing.assert_array_equal, params, separate.init(jax.random.key(9), tokens))
  total = lambda module: (
    lambda params: sum(jnp.sum(jnp.sin(y)) for y in module.apply(params, tokens).values())
  )
  for f in (lambda m: m.apply(params, tokens), lambda m: jax.grad(total(m))(params)):
    jax.tree.map(
      lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5), f(split), f(separate)
    )


def test_projections_of_one_array_are_one_product_where_gradients_are_wanted():
  x = jnp.ones((2, 5, 12))
  split = _Split(depth=4, bias=True)
  same = lambda params, x: split.apply(params, dict.fromkeys("qkv", x))
  different = lambda params, x: split.apply(params, {role: x + place for place, role in enumerate("qkv")})
  params = split.init(jax.random.key(0), dict.fromkeys("qkv", x))

  def products(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("dot_general")

  assert [products(f, params, x) for f in (same, different)] == [3, 3]
  with_gradients = [functools.partial(jax.vjp, f) for f in (same, different)]
  assert [products(f, params, x) for f in with_gradients] == [1, 3]

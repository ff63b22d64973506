"""FLOPs against sums done by hand, the table, the digest."""

import jax
import jax.numpy as jnp
import pytest

from convnn_jax.models import make_model
from convnn_jax.training import summary


def vit(attention):
  return make_model(dict(name="vit", attention=attention), num_classes=10)


def forward_flops(model):
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  variables = jax.eval_shape(lambda k, x: model.init(k, x, train=False), jax.random.key(0), image)
  return summary.flops(lambda v, x: model.apply(v, x, train=False), variables, image)


@pytest.mark.parametrize("heads", [1, 3])
def test_vit_tiny(heads):
  n, c, hidden = 197, 192, 768
  block = 4 * n * c * c + 2 * n * n * c + 2 * n * c * hidden  # projections, scores and values, MLP
  expected = 2 * (196 * 768 * c + 12 * block + c * 10)
  assert forward_flops(vit(dict(name="softmax", num_heads=heads))) == expected
  # Neighbours are gathered, not multiplied: the second product of n x n is gone.
  convnn = vit(dict(name="convnn", num_heads=heads))
  assert forward_flops(convnn) == expected - 2 * 12 * n * n * c
  # A standard convolution: k products of d x d per head.
  standard = vit(dict(name="convnn", num_heads=heads, convolution="standard"))
  assert forward_flops(standard) == expected - 2 * 12 * n * n * c + 2 * 12 * 9 * n * c * (c // heads)


def test_table_and_digest():
  params = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
  text = summary.table(params)
  assert "a/kernel" in text
  assert "2x3" in text
  assert text.splitlines()[-1].split() == ["total", "9"]
  other = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3).at[0].set(1e-7)}}
  assert summary.digest(params) == summary.digest(jax.tree.map(jnp.copy, params))
  assert summary.digest(params) != summary.digest(other)

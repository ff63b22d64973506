"""Properties that hold for every registered attention; a new one is tested by being listed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.attention import ATTENTIONS, TokenGrid, attention_class, make_attention
from convnn_jax.errors import UserError

# The smallest legal spec of each variant, its parameters at width 24, and what the properties depend on.
# ignores_order: tokens permuted in give tokens permuted out.


@dataclasses.dataclass
class Case:
  spec: dict
  num_params: int
  ignores_order: bool = True


CASES = {
  "convnn": Case(dict(num_heads=3, num_neighbors=4), 4 * 24 * 24 + 4 * 8),
  "softmax": Case(dict(num_heads=3), 4 * 24 * 24),
}
ROWS, COLUMNS, WIDTH = 4, 4, 24
GRID = TokenGrid(ROWS, COLUMNS, num_prefix=1)


def test_every_variant_is_listed():
  assert CASES.keys() == ATTENTIONS.keys()


@pytest.fixture(params=sorted(ATTENTIONS), name="variant")
def _variant(request):
  case = CASES[request.param]
  module = make_attention({"name": request.param, **case.spec})
  x = jax.random.normal(jax.random.key(1), (8, GRID.num_tokens, WIDTH))
  variables = jax.jit(lambda k: module.init(k, x, train=False, grid=GRID))(jax.random.key(0))
  return case, module, variables, x


@functools.partial(jax.jit, static_argnames=("module", "mutable"))
def apply(module, variables, x, mutable=False, **kwargs):
  return module.apply(variables, x, train=False, grid=GRID, mutable=mutable, **kwargs)


def test_keeps_shape_and_parameter_count(variant):
  case, module, variables, x = variant
  assert apply(module, variables, x).shape == x.shape
  assert sum(p.size for p in jax.tree.leaves(variables["params"])) == case.num_params


def test_examples_do_not_see_each_other(variant):
  _, module, variables, x = variant
  alone = apply(module, variables, x[:1])
  np.testing.assert_allclose(apply(module, variables, x)[:1], alone, atol=1e-5)


def test_permuted_tokens_give_permuted_results(variant):
  case, module, variables, x = variant
  order = np.random.default_rng(0).permutation(GRID.num_tokens)
  permuted = apply(module, variables, x[:, order])
  expected = apply(module, variables, x)[:, order]
  assert np.allclose(permuted, expected, atol=1e-5) == case.ignores_order


def test_jit_changes_nothing(variant):
  _, module, variables, x = variant
  eager = module.apply(variables, x, train=False, grid=GRID)
  np.testing.assert_allclose(apply(module, variables, x), eager, atol=1e-5)


def test_bfloat16_stays_close_and_parameters_stay_float32(variant):
  case, module, variables, x = variant
  low = module.clone(dtype=jnp.bfloat16)
  y = apply(low, variables, x)
  assert y.dtype == jnp.bfloat16
  correlation = np.corrcoef(np.ravel(apply(module, variables, x)), np.ravel(y.astype(jnp.float32)))
  assert correlation[0, 1] > 0.98
  made = low.init(jax.random.key(0), x, train=False, grid=GRID)
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(made))


@pytest.mark.parametrize("kind", ["random", "zeros", "duplicates"])
def test_gradients_are_finite(variant, kind):
  _, module, variables, x = variant
  x = {"random": x, "zeros": jnp.zeros_like(x), "duplicates": jnp.broadcast_to(x[:, :1], x.shape)}[kind]
  value = lambda v, x: jnp.sum(jnp.sin(apply(module, v, x)))
  grads = jax.jit(jax.grad(value, argnums=(0, 1)))(variables, x)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  if kind == "random":  # every parameter takes part
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[0]))


def test_eight_devices_equal_one(variant):
  _, module, variables, x = variant
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  value = lambda v, x: jnp.sum(jnp.sin(apply(module, v, x)))
  one = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(variables, x)
  eight = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(variables, sharded)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), one, eight)


def test_training_draws_from_rngs_and_evaluation_does_not(variant):
  case, module, variables, x = variant
  noisy = make_attention({"name": _name(module), **case.spec, "dropout_rate": 0.5})
  rngs = lambda seed: {"dropout": jax.random.key(seed), "candidates": jax.random.key(seed)}
  one, two = (noisy.apply(variables, x, train=True, grid=GRID, rngs=rngs(seed)) for seed in (1, 2))
  assert not np.allclose(one, two)
  np.testing.assert_array_equal(apply(noisy, variables, x), apply(module, variables, x))


def test_attention_weights_are_sown_on_request(variant):
  _, module, variables, x = variant
  n = GRID.num_tokens
  _, sown = apply(module, variables, x, mutable=("intermediates",))
  (weights,) = sown["intermediates"]["attention_weights"]
  assert weights.ndim == 4
  assert (weights.shape[0], weights.shape[2], weights.shape[3]) == (8, n, n)
  assert np.isfinite(weights).all()
  assert "intermediates" not in variables


def test_hidden_tokens_have_no_influence(variant):
  _, module, variables, x = variant
  bias = jnp.zeros((1, 1, 1, GRID.num_tokens)).at[..., -1].set(-1e9)
  changed = x.at[:, -1].add(3.0)
  before, after = (apply(module, variables, inputs, bias=bias) for inputs in (x, changed))
  np.testing.assert_allclose(before[:, :-1], after[:, :-1], atol=1e-5)


def test_context_gives_keys_and_values(variant):
  _, module, variables, x = variant
  context = jax.random.normal(jax.random.key(3), (8, 9, WIDTH))
  assert apply(module, variables, x, context=context).shape == x.shape
  np.testing.assert_allclose(apply(module, variables, x, context=x), apply(module, variables, x), atol=1e-6)


def test_unknown_field_is_refused(variant):
  _, module, _, _ = variant
  with pytest.raises(UserError, match="num_head.*Did you mean 'num_heads'"):
    make_attention({"name": _name(module), "num_head": 3})


def test_heads_must_divide_the_width(variant):
  case, module, _, x = variant
  bad = make_attention({"name": _name(module), **case.spec, "num_heads": 5})
  with pytest.raises(UserError, match="num_heads=5 must divide the width 24"):
    bad.init(jax.random.key(0), x, train=False, grid=GRID)


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'convnn'"):
    attention_class("convn")
  with pytest.raises(UserError, match="has no 'name'"):
    make_attention({"num_heads": 3})


def _name(module):
  return next(name for name in ATTENTIONS if attention_class(name) is type(module))

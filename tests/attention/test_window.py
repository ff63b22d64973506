"""Window attention and spatial MLP: limits and mistakes; the reference cases pin down the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.attention import TokenGrid, make_attention
from convnn_jax.errors import UserError

GRID = TokenGrid(2, 3)
V1 = dict(name="window", num_heads=2)
V2 = dict(name="window", num_heads=2, similarity="cosine", relative_bias="mlp")
X = jax.random.normal(jax.random.key(0), (2, 6, 8))


def initial(spec, grid=GRID, x=X):
  module = make_attention(spec)
  return fast_jit(lambda k: module.init(k, x, train=False, grid=grid))(jax.random.key(1))["params"]


def shapes(spec, grid=GRID, x=X):
  module = make_attention(spec)
  return jax.eval_shape(lambda k: module.init(k, x, train=False, grid=grid), jax.random.key(1))["params"]


def made(spec, grid=GRID, x=X):
  """Random parameters, wide enough that attention is far from uniform."""
  rng = np.random.default_rng(0)
  draw = lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32)
  return jax.tree.map(draw, shapes(spec, grid, x))


def run(spec, params, grid=GRID, x=X):
  module = make_attention(spec)
  return fast_jit(lambda params, x: module.apply({"params": params}, x, train=False, grid=grid))(params, x)


@pytest.mark.parametrize("spec", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("weight", ["table", "mlp"])
def test_weights_of_positions_start_as_if_there_were_none(spec, weight):
  with_weight = spec | dict(rel_pos_weight=weight)
  params = made(with_weight)
  first = {k: v for k, v in initial(with_weight).items() if "rel_pos_weight" in k}
  plain = {name: leaf for name, leaf in params.items() if "rel_pos_weight" not in name}
  assert len(plain) == len(params) - 1
  np.testing.assert_allclose(run(with_weight, plain | first), run(spec, plain), atol=1e-6)
  assert not np.allclose(run(with_weight, params), run(spec, plain), atol=1e-3)


@pytest.mark.parametrize("spec", [V1, V1 | dict(qkv_bias=False), V2], ids=["v1", "v1-no-bias", "v2"])
def test_residual_adds_the_identity_to_query_and_key(spec):
  params = made(spec)
  identity = jnp.eye(8).reshape(8, 2, 4)
  less = {k: params[k] | dict(kernel=params[k]["kernel"] - identity) for k in ("query", "key")}
  residual = spec | dict(qk_residual=True)
  np.testing.assert_allclose(run(residual, params | less), run(spec, params), atol=1e-5)
  assert not np.allclose(run(residual, params), run(spec, params), atol=1e-3)


def test_without_projections_the_residual_attends_to_itself():
  residual = V2 | dict(qk_residual=True, relative_bias="none")
  params = made(residual)
  for role in ("query", "key"):
    params[role] = jax.tree.map(jnp.zeros_like, params[role])
  module = make_attention(residual)
  _, sown = module.apply({"params": params}, X, train=False, grid=GRID, mutable=["intermediates"])
  (weights,) = sown["intermediates"]["attention_weights"]
  assert (np.argmax(np.asarray(weights), axis=-1) == np.arange(6)).all()


def test_prefix_tokens_have_no_bias():
  grid = TokenGrid(2, 3, num_prefix=1)
  x = jax.random.normal(jax.random.key(0), (2, 7, 8))
  params = made(V1, grid, x)
  params["relative_bias_table"] = jnp.full_like(params["relative_bias_table"], -1e9)
  params["value"] = jax.tree.map(jnp.zeros_like, params["value"])
  params["value"]["kernel"] = jnp.eye(8).reshape(8, 2, 4)
  params["out"] = dict(kernel=jnp.eye(8).reshape(2, 4, 8), bias=jnp.zeros(8))
  out = run(V1, params, grid, x)  # patches see the class token only
  np.testing.assert_allclose(out[:, 1:], jnp.broadcast_to(x[:, :1], (2, 6, 8)), atol=1e-5)


def test_factor_of_the_cosine_is_at_most_100():
  params = made(V2)
  scaled = lambda value: run(V2, params | dict(logit_scale=jnp.full((2,), value)))
  np.testing.assert_array_equal(scaled(4.7), scaled(9.0))
  assert not np.allclose(scaled(4.5), scaled(4.7), atol=1e-6)


def test_biases_are_those_of_the_versions():
  bias = lambda spec: {
    name for name, leaf in shapes(spec).items() if isinstance(leaf, dict) and "bias" in leaf
  }
  assert bias(V1) == {"query", "key", "value", "out"}
  assert bias(V2) == {"query", "value", "out"}
  assert bias(V1 | dict(qkv_bias=False)) == bias(V2 | dict(qkv_bias=False)) == {"out"}


def test_bounds_and_initial_deviations():
  params = initial(V1 | dict(rel_pos_weight="table", rel_pos_weight_std=1e-4))
  np.testing.assert_allclose(np.std(params["rel_pos_weight_table"]), 1e-4, rtol=0.5)
  np.testing.assert_allclose(np.std(params["relative_bias_table"]), 0.02, rtol=0.5)
  np.testing.assert_allclose(np.std(params["query"]["kernel"]), 0.02, rtol=0.3)
  assert not np.any(params["query"]["bias"])
  params = initial(V2 | dict(rel_pos_weight="mlp", rel_pos_weight_std=2e-4))
  for layer in ("hidden_layer", "out"):
    np.testing.assert_allclose(np.std(params["rel_pos_weight_mlp"][layer]["kernel"]), 2e-4, rtol=0.1)
  np.testing.assert_allclose(params["logit_scale"], np.log(10), rtol=1e-6)
  # 16 sigmoid(0) = 8 for every pair: no bias at all.
  flat = params | dict(relative_bias_mlp=jax.tree.map(jnp.zeros_like, params["relative_bias_mlp"]))
  np.testing.assert_allclose(
    run(V2, {k: v for k, v in flat.items() if k != "rel_pos_weight_mlp"}),
    run(V2 | dict(relative_bias="none"), {k: v for k, v in flat.items() if "_mlp" not in k}),
    atol=1e-5,
  )


def test_spatial_mlp_is_a_matrix_per_head():
  spec = dict(name="spatial_mlp", num_heads=2)
  params = made(spec)
  out = run(spec, params)
  for head in range(2):
    part = slice(head * 4, head * 4 + 4)
    for b in range(2):
      expected = params["kernel"][head] @ X[b, :, part] + params["bias"][head][:, None]
      np.testing.assert_allclose(out[b, :, part], expected, atol=1e-5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(similarity="cos"), "Unknown similarity 'cos'. Did you mean 'cosine'"),
    (dict(relative_bias="tabel"), "Did you mean 'table'"),
    (dict(rel_pos_weight="continuous"), "Unknown rel_pos_weight 'continuous'"),
    (dict(relative_bias_bound="tanh"), "Unknown relative_bias_bound 'tanh'"),
    (dict(rel_pos_weight_bound="tanh"), "Unknown rel_pos_weight_bound 'tanh'"),
    (dict(rel_pos_weight_std=-1.0), "rel_pos_weight_std=-1.0 must be at least 0"),
    (dict(rel_pos_weight_std=1e-4), "rel_pos_weight_std=0.0001 has no effect with rel_pos_weight='none'"),
    (
      dict(relative_bias="mlp", pretrained_window=(7, 7, 7)),
      "pretrained_window=.* must be a whole number or a pair",
    ),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    shapes(V1 | change)


def test_needs_the_grid_of_its_tokens():
  with pytest.raises(UserError, match="needs the TokenGrid of its 6 tokens, not None"):
    shapes(V1, None)
  with pytest.raises(UserError, match="needs the TokenGrid of its 6 tokens"):
    shapes(V1, TokenGrid(2, 2))

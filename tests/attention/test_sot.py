"""Attention by self-optimal transport: its limits, its variants, and what does not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax import registry
from convnn_jax.attention import make_attention
from convnn_jax.errors import UserError
from convnn_jax.ops.self_transport import PRESETS, self_transport

B, N, C, H = 2, 8, 16, 2  # as many tokens as channels of a head
X = jax.random.normal(jax.random.key(1), (B, N, C))
TRANSPOSED = dict(variant="query_key_transposed", normalization="rows")


def made(**fields):
  return make_attention(dict(name="sot", num_heads=H, dropout_rate=0.0, **fields))


@functools.cache
def variables():
  return fast_jit(lambda k: made().init(k, X, train=False))(jax.random.key(0))


@functools.cache
def compiled(**fields):
  return fast_jit(lambda v, x: made(**fields).apply(v, x, train=False, mutable=["intermediates"]))


def result(x=X, **fields):
  """(output, sown values)."""
  out, sown = compiled(**fields)(variables(), x)
  return np.asarray(out), {name: np.asarray(value[0]) for name, value in sown["intermediates"].items()}


def projected(role):
  return jnp.einsum("bnc,chd->bnhd", X, variables()["params"][role]["kernel"])


@pytest.mark.parametrize(
  ("variant", "normalization"),
  [("query", "softmax"), ("query_key", "none"), ("query_key_transposed", "rows")],
)
def test_output_is_the_normalised_transport_times_the_values(variant, normalization):
  out, sown = result(variant=variant, normalization=normalization, scale=3.0)
  key = projected("key")
  columns = {"query": None, "query_key": key, "query_key_transposed": jnp.transpose(key, (0, 3, 2, 1))}[
    variant
  ]
  scores = 3.0 * np.asarray(self_transport(projected("query"), columns)[0])
  weights = {
    "softmax": np.exp(scores) / np.exp(scores).sum(-1, keepdims=True),
    "rows": scores / scores.sum(-1, keepdims=True),
    "none": scores,
  }[normalization]
  np.testing.assert_allclose(sown["attention_weights"], weights, atol=1e-5)
  mixed = np.einsum("bhnm,bmhd->bnhd", weights, projected("value"))
  expected = np.einsum("bnhd,hdc->bnc", mixed, variables()["params"]["out"]["kernel"])
  np.testing.assert_allclose(out, expected, atol=1e-5)


def test_much_entropy_is_mean_pooling():
  out, _ = result(regularization=1e5)
  mean = np.einsum("bnhd,hdc->bc", projected("value") / N, variables()["params"]["out"]["kernel"])
  np.testing.assert_allclose(out, np.broadcast_to(mean[:, None], out.shape), atol=1e-5)


def test_the_default_scale_leaves_the_softmax_nearly_flat():
  _, default = result(regularization=0.1)
  _, sharp = result(regularization=0.1, scale=10.0)
  entropy = lambda sown: (
    -np.sum(sown["attention_weights"] * np.log(sown["attention_weights"] + 1e-30), -1) / np.log(N)
  )
  assert entropy(default).min() > 0.99
  assert entropy(sharp).mean() < 0.9


def test_order_matters_to_transposed_keys_only():
  order = np.random.default_rng(0).permutation(N)
  for fields in (dict(variant="query_key", normalization="none"), TRANSPOSED):
    fields = fields | dict(scale=3.0)
    kept = np.allclose(result(X[:, order], **fields)[0], result(**fields)[0][:, order], atol=1e-5)
    assert kept == (fields["variant"] == "query_key")


def test_transposed_keys_need_as_many_tokens_as_channels():
  with pytest.raises(UserError, match="compares 7 tokens with the d=8 channels of a head"):
    made(variant="query_key_transposed").apply(variables(), X[:, :7], train=False)


@pytest.mark.parametrize("variant", ["query", "query_key"])
def test_queries_alone_give_keys_no_gradient(variant):
  value = lambda v: jnp.sum(jnp.sin(made(variant=variant).apply(v, X, train=False)))
  gradients = fast_jit(jax.grad(value))(variables())["params"]
  largest = {name: float(np.abs(leaf["kernel"]).max()) for name, leaf in gradients.items()}
  assert (largest.pop("key") == 0) == (variant == "query")
  assert min(largest.values()) > 0


@pytest.mark.parametrize(
  ("regularization", "fields"),
  [
    (0.025, dict(variant="query_key")),
    (1.0, dict(variant="query_key")),
    (0.025, dict(gradient="implicit")),
    (0.025, dict(gradient="implicit", diagonal="kept")),
    (1e-6, dict(gradient="implicit")),
  ],
)
def test_gradients_are_finite_in_bfloat16_where_tokens_coincide(regularization, fields):
  attention = made(regularization=regularization, **fields).clone(dtype=jnp.bfloat16)
  value = lambda v, x: jnp.sum(jnp.sin(attention.apply(v, x, train=False).astype(jnp.float32)))
  run = fast_jit(jax.grad(value, argnums=(0, 1)))
  pairs = X.at[:, 1].set(X[:, 0])
  for x in (pairs, jnp.broadcast_to(X[:, :1], X.shape), jnp.zeros_like(X)):
    assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in jax.tree.leaves(run(variables(), x)))


def test_rows_that_have_not_converged_are_reported():
  _, early = result(regularization=0.05, iterations=2)
  _, late = result(regularization=0.05, iterations=400)
  assert early["sinkhorn_row_error"].shape == (B, H)
  assert early["sinkhorn_row_error"].min() > 1e-3
  assert late["sinkhorn_row_error"].max() < 1e-4
  _, unit = result(regularization=0.05, iterations=400, marginal="unit")
  assert unit["sinkhorn_row_error"].max() < 1e-4


def test_the_rule_to_stop_is_off_unless_asked_for():
  assert not np.array_equal(result(stop_threshold=0.3)[0], result()[0])


def test_the_preset_of_the_authors_is_a_spec():
  assert not np.allclose(result(**PRESETS["upstream"])[0], result()[0], atol=1e-4)
  defaults = registry.defaults(type(made()))
  assert {field: defaults[field] for field in PRESETS["seed"]} == PRESETS["seed"]


def test_a_traced_regularization_gives_the_same():
  """Several runs that differ in this number may share a program."""

  def run(regularization):
    return made(variant="query_key", scale=4.0, regularization=regularization).apply(
      variables(), X, train=False
    )

  variables()
  several = fast_jit(jax.vmap(run))(jnp.array([0.1, 0.5]))
  for value, out in zip((0.1, 0.5), several, strict=True):
    np.testing.assert_allclose(
      out, result(variant="query_key", scale=4.0, regularization=value)[0], atol=1e-5
    )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(variant="queries"), "Did you mean 'query'"),
    (dict(normalization="row"), "Did you mean 'rows'"),
    (dict(regularization=0.0), "regularization=0.0 must be at least 1e-6"),
    (dict(metric="euclid"), "Did you mean 'euclidean'"),
    (dict(linear_init="gauss"), "Unknown init 'gauss'"),
    (dict(stop_threshold=-0.1), "stop_threshold=-0.1 must be at least 0"),
    (dict(diagonal="kept", mask_value=10.0), "mask_value=10.0 has no effect with diagonal='kept'"),
    (dict(diagonal="kept", diagonal_value=0.0), "diagonal_value=0.0 has no effect with diagonal='kept'"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda k: made(**change).init(k, X, train=False), jax.random.key(0))

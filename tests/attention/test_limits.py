"""Limits in which one attention equals another, and plain loops where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.attention import TokenGrid, make_attention
from convnn_jax.errors import UserError

X = jax.random.normal(jax.random.key(1), (2, 9, 12))
SOFTMAX = dict(name="softmax", num_heads=3)


def run(spec, variables=None, **options):
  """(output, variables); fresh parameters unless given."""
  module = make_attention(spec)
  if variables is None:
    variables = fast_jit(lambda key: module.init(key, X, train=False))(jax.random.key(0))
    variables = {"params": variables["params"]}
  return fast_jit(lambda v: module.apply(v, X, train=False, **options))(variables), variables


@pytest.mark.parametrize(
  "spec",
  [
    dict(name="knn", num_neighbors=9),
    dict(name="sparse", pattern="all"),
    dict(name="sparse", pattern="strided", window=9, global_tokens=9),
    dict(name="local", head_dim=4, window_size=9, positions="none"),
    dict(name="neighborhood", window_size=9, out_bias=False),
    dict(name="softmax", head_dim=4),
  ],
  ids=lambda spec: "-".join(str(v) for v in spec.values()),
)
def test_whoever_sees_everything_is_softmax_attention(spec):
  expected, variables = run(SOFTMAX)
  np.testing.assert_allclose(run({**spec, "num_heads": 3}, variables)[0], expected, atol=1e-5)


@pytest.mark.parametrize(("ratio", "only"), [(0, "second"), (1.0, "first")])
def test_branching_with_one_branch_is_that_branch(ratio, only):
  branches = dict(first=dict(name="convnn", num_heads=3, num_neighbors=4), second=SOFTMAX)
  expected, variables = run(branches[only])
  out, own = run(dict(name="branching", ratio=ratio, **branches), {"params": {only: variables["params"]}})
  np.testing.assert_array_equal(out, expected)
  assert run(dict(name="branching", ratio=ratio, **branches))[1]["params"].keys() == {only}


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(first=SOFTMAX, second=SOFTMAX, ratio=1.5), r"ratio=1.5 must lie in \[0, 1\]"),
    (dict(first="softmax", second=SOFTMAX), "first='softmax' must be the spec of an attention"),
    (dict(first=SOFTMAX, second=SOFTMAX, ratio=0.4), "num_heads=3 must divide the width 4"),
  ],
)
def test_branching_names_what_does_not_fit(fields, message):
  with pytest.raises(UserError, match=message):
    run(dict(name="branching", **fields))


def test_reattention_mixes_heads_and_normalises_over_them():
  _, variables = run(dict(name="reattention", num_heads=3))
  p = jax.tree.map(np.asarray, variables["params"])
  p["head_norm"] = dict(scale=np.float32([1, 2, 3]), bias=np.float32([0.1, 0.2, 0.3]))
  x, expected = np.asarray(X), np.zeros(X.shape)
  q, k, v = (np.einsum("bnc,chd->bnhd", x, p[name]["kernel"]) for name in ("query", "key", "value"))
  for b, n in np.ndindex(2, 9):
    scores = np.array([[q[b, n, h] @ k[b, m, h] / 2 for m in range(9)] for h in range(3)])
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    mixed = np.array([sum(weights[h] * p["head_mix"][h, g] for h in range(3)) for g in range(3)])
    mixed = (mixed - mixed.mean(axis=0)) / np.sqrt(mixed.var(axis=0) + 1e-5)
    mixed = mixed * p["head_norm"]["scale"][:, None] + p["head_norm"]["bias"][:, None]
    heads = np.array([mixed[g] @ v[b, :, g] for g in range(3)])
    expected[b, n] = np.einsum("hd,hdc->c", heads, p["out"]["kernel"]) + p["out"]["bias"]
  np.testing.assert_allclose(
    run(dict(name="reattention", num_heads=3), {"params": p})[0], expected, atol=1e-4
  )


@pytest.mark.parametrize("qk_norm", ["l2", "key", "l2_key"])
def test_local_attention_with_unit_vectors(qk_norm):
  spec = dict(name="local", num_heads=3, head_dim=4, window_size=9, positions="none", qk_norm=qk_norm)
  _, variables = run(spec)
  p = jax.tree.map(np.asarray, variables["params"])
  scales = {name: np.linspace(0.5, 2, 4, dtype=np.float32) for name in ("query_scale", "key_scale")}
  p |= scales if qk_norm != "key" else {}
  unit = lambda y: y / np.linalg.norm(y, axis=-1, keepdims=True)
  q, k, v = (np.einsum("bnc,chd->bhnd", X, p[name]["kernel"]) for name in ("query", "key", "value"))
  if qk_norm != "key":
    q, k = unit(q) * p["query_scale"], unit(k) * p["key_scale"]
  scores = q @ (k if qk_norm == "l2" else unit(k)).swapaxes(2, 3) * (0.5 if qk_norm == "key" else 8)
  if qk_norm != "l2":
    scores[..., np.arange(9), np.arange(9)] = -5e4
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  heads = weights / weights.sum(axis=-1, keepdims=True) @ v
  expected = np.einsum("bhnd,hdc->bnc", heads, p["out"]["kernel"])
  np.testing.assert_allclose(run(spec, {"params": p})[0], expected, atol=1e-5)


def test_a_window_that_does_not_fit_the_grid_is_measured_by_its_rows_and_columns():
  attention = make_attention(dict(name="neighborhood", num_heads=3, layout="grid", window_size=4))
  for grid, message in (
    (TokenGrid(3, 3), "at most 3, the number of rows"),
    (TokenGrid(4, 2), "2, the number of col"),
  ):
    x = jnp.zeros((1, grid.num_tokens, 12))
    with pytest.raises(UserError, match=message):
      jax.eval_shape(lambda k, x=x, g=grid: attention.init(k, x, train=False, grid=g), jax.random.key(0))


def test_branches_show_weights_of_different_padding():
  """The zeros that fill up the last window of one branch are no keys of the other."""
  local = dict(name="local", num_heads=1, head_dim=6, window_size=4, quirks=("visible_padding",))
  spec = dict(name="branching", first=local, second=dict(name="softmax", num_heads=2))
  attention = make_attention(spec)
  init = lambda key: attention.init_with_output(key, X, train=False, mutable=["params", "intermediates"])
  sown = fast_jit(init)(jax.random.key(0))[1]["intermediates"]
  (weights,) = sown["attention_weights"]
  assert weights.shape == (2, 3, 9, 12)
  np.testing.assert_array_equal(weights[:, :1], sown["first"]["attention_weights"][0])
  np.testing.assert_array_equal(weights[:, 1:, :, :9], sown["second"]["attention_weights"][0])
  assert not np.any(weights[:, 1:, :, 9:])
  assert int(sown["attention_padding"][0]) == int(sown["first"]["attention_padding"][0]) == 3
  assert "attention_padding" not in sown["second"]


def test_a_local_token_that_sees_nothing_gets_zero():
  hidden = jnp.zeros((1, 1, 9, 9)).at[:, :, 4].set(-1e9)
  out, _ = run(dict(name="local", num_heads=3, head_dim=4, window_size=3), bias=hidden)
  np.testing.assert_array_equal(out[:, 4], 0.0)
  assert np.abs(out[:, 3]).max() > 0


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (dict(name="softmax", out_projection="none", head_dim=5), "to be the width 12"),
    (dict(name="softmax", out_projection="linaer"), "Did you mean 'linear'"),
    (dict(name="local", causal=True), "needs look_forward=0, not 1"),
    (dict(name="local", head_dim=3), "head_dim=3 must be even"),
    (dict(name="local", quirks=("visible_paddin",)), "Did you mean 'visible_padding'"),
    (dict(name="neighborhood", layout="grid"), "needs the TokenGrid of its 9 tokens"),
    (dict(name="sparse", window=0), "window=0 must be at least 1"),
    (dict(name="sparse", global_tokens=10), r"global_tokens=10 must lie in \[0, 9\]"),
    (dict(name="conv1d", kernel_size=0), "kernel_size=0 must be at least 1"),
    (dict(name="knn", num_neighbors=10), r"num_neighbors=10 must lie in \[1, 9\]"),
  ],
)
def test_impossible_values_are_named(spec, message):
  with pytest.raises(UserError, match=message):
    run({"num_heads": 3, **spec})

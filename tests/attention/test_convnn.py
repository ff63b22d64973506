"""ConvNN attention against loops, against softmax attention, and its rules one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convnn_modules import apply_convnn, make_convnn, make_tokens, random_params
from convnn_reference import convnn as reference
from fast_jit import fast_jit

from convnn_jax.attention import TokenGrid, make_attention
from convnn_jax.convert.rules import flat
from convnn_jax.errors import UserError
from convnn_jax.ops.candidates import spatial_grid_candidates

SIMILARITIES = ("dot", "cosine", "euclidean")
WEIGHTINGS = ("softmax", "similarity", "full_softmax", "sum")
CONVOLUTIONS = ("depthwise", "standard", "depthwise_separable")
CHOSEN = np.array([6, 0, 3, 5, 1], np.int32)


def _check_against_loops(x, *specs, chosen=None):
  """Both in float64; all specs are compiled together, which is quicker."""
  sampled = {} if chosen is None else dict(candidates="random", num_candidates=len(chosen))
  modules = [make_convnn(**spec | sampled) for spec in specs]
  params = [random_params(module, x) for module in modules]
  drawn = {} if chosen is None else {"candidates": {"index": chosen}}
  apply = lambda module, p, x: module.apply({"params": p} | drawn, x, train=False)
  with jax.enable_x64(True):
    outputs = fast_jit(lambda ps, x: [apply(m, p, x) for m, p in zip(modules, ps, strict=True)])(params, x)
  names = ("num_heads", "num_neighbors", "similarity", "weighting", "convolution", "temperature")
  names += ("self_fill_value", "quirks")
  for ours, module, p in zip(outputs, modules, params, strict=True):
    given = {name: getattr(module, name) for name in names}
    for field in ("similarity_on", "aggregate_on"):
      given[field] = "both" if module.coordinate_encoding else getattr(module, field)
    loops = reference(x, p, **given, chosen=chosen)
    # Sums of similarities may be close to 0, which makes large weights.
    atol = 1e-6 * max(1, np.abs(loops).max())
    np.testing.assert_allclose(ours, loops, rtol=1e-6, atol=atol, err_msg=str(module))


@pytest.mark.parametrize("chosen", [None, CHOSEN], ids=["all", "sampled"])
def test_equals_loops(chosen):
  common = dict(num_heads=2, num_neighbors=3)
  for similarity, weighting in itertools.product(SIMILARITIES, WEIGHTINGS):
    temperature = 0.7 if "softmax" in weighting else 1.0
    spec = common | dict(similarity=similarity, weighting=weighting, temperature=temperature)
    specs = [spec | dict(convolution=convolution) for convolution in CONVOLUTIONS]
    # The convolution does not know where its neighbours come from: one kind is enough for sampled ones.
    _check_against_loops(make_tokens(2, 7, 6), *specs[: 3 if chosen is None else 1], chosen=chosen)


@pytest.mark.parametrize("quirks", [(), ("rank_coordinates",)])
def test_coordinates_equal_loops(quirks):
  spec = dict(num_heads=2, num_neighbors=3, convolution="standard", coordinate_encoding=True, quirks=quirks)
  specs = [spec | dict(similarity=similarity) for similarity in SIMILARITIES]
  _check_against_loops(make_tokens(1, 7, 6), *specs, chosen=CHOSEN)
  if not quirks:  # it is about sampled candidates
    _check_against_loops(make_tokens(1, 7, 6), *specs)


def test_features_and_positions_in_every_combination_equal_loops():
  uses = itertools.product(("features", "positions", "both"), repeat=2)
  spec = dict(num_heads=2, num_neighbors=3, convolution="standard")  # distances of even steps would be ties
  specs = [spec | dict(similarity_on=compared, aggregate_on=convolved) for compared, convolved in uses]
  specs.append(spec | dict(aggregate_on="positions", convolution="depthwise_separable"))
  _check_against_loops(make_tokens(1, 6, 6), *specs)
  _check_against_loops(make_tokens(1, 6, 6), *specs[3:6], chosen=CHOSEN[1:])
  # What is not read is not projected.
  roles = lambda spec: set(random_params(make_convnn(**spec), make_tokens(1, 6, 6))) - {"out", "convolution"}
  assert roles(spec | dict(similarity_on="positions")) == {"value"}
  assert roles(spec | dict(aggregate_on="positions")) == {"query", "key"}


def test_neighbors_by_position_are_the_nearest_along_the_sequence():
  x = jnp.asarray(make_tokens(1, 7, 6), jnp.float32)
  module = make_convnn(num_neighbors=3, similarity="euclidean", similarity_on="positions")
  sown = module.apply({"params": random_params(module, x)}, x, train=False, mutable=["intermediates"])[1]
  visible = np.asarray(sown["intermediates"]["attention_weights"][0][0, 0]) > 0
  expected = np.abs(np.subtract.outer(np.arange(7), np.arange(7))) <= 1
  expected[0, 2] = expected[6, 4] = True
  np.testing.assert_array_equal(visible, expected)


def test_grid_candidates_are_rows_and_columns_of_patches():
  np.testing.assert_array_equal(spatial_grid_candidates(4, 5, 4), [0, 4, 15, 19])
  np.testing.assert_array_equal(
    spatial_grid_candidates(14, 14, 9, num_prefix=1),
    [1 + 14 * y + x for y in (0, 6, 13) for x in (0, 6, 13)],
  )
  np.testing.assert_array_equal(spatial_grid_candidates(3, 3, 1), [4])
  np.testing.assert_array_equal(spatial_grid_candidates(3, 2, 4), [0, 1, 4, 5])
  x = jnp.asarray(make_tokens(1, 13, 6), jnp.float32)
  module = make_convnn(num_neighbors=3, candidates="spatial_grid", num_candidates=4)
  options = dict(train=False, grid=TokenGrid(3, 4, num_prefix=1), mutable=["intermediates"])
  params = random_params(make_convnn(num_neighbors=3), x)  # the candidates change no parameter
  sown = module.apply({"params": params}, x, **options)[1]["intermediates"]["attention_weights"][0]
  seen = np.flatnonzero((np.asarray(sown[0, 0]) > 0).sum(0) > 1)  # by others than itself
  assert set(seen) <= {1, 4, 9, 12}


@pytest.mark.parametrize("projection", ["qk", "v", "none"])
def test_projections_and_biases_equal_loops(projection):
  spec = dict(num_heads=2, num_neighbors=3, similarity="cosine", projection=projection)
  spec |= dict(qkv_bias=True, out_bias=True, convolution_bias=True)
  specs = [spec | dict(convolution=kind) for kind in CONVOLUTIONS]
  _check_against_loops(make_tokens(1, 7, 6), *specs)
  # The loops use the biases that exist: every kernel must have one.
  for params in (flat(random_params(make_convnn(**spec), make_tokens(1, 7, 6))) for spec in specs):
    kernels, biases = ([p for p in params if p.endswith(end)] for end in ("kernel", "bias"))
    assert [p.replace("kernel", "bias") for p in kernels] == biases


@pytest.mark.parametrize("weighting", ["softmax", "similarity", "sum"])
def test_distances_of_the_first_versions_equal_loops(weighting):
  quirks = ("self_fill", "distance_weights")
  spec = dict(num_heads=2, num_neighbors=3, similarity="euclidean", weighting=weighting)
  _check_against_loops(make_tokens(2, 7, 6), spec | dict(quirks=quirks, self_fill_value=-0.1))


@pytest.mark.parametrize("num_heads", [1, 2, 3])
def test_all_neighbors_equal_softmax_attention(num_heads):
  x = make_tokens(2, 17, 24)
  convnn = make_convnn(num_heads=num_heads, num_neighbors=17)
  softmax = make_attention(dict(name="softmax", num_heads=num_heads))
  shared = random_params(softmax, x)
  params = shared | {"convolution": {"kernel": np.ones((17, 24 // num_heads))}}
  ours, sown = apply_convnn(convnn, params, x, mutable=["intermediates"])
  expected, expected_sown = apply_convnn(softmax, shared, x, mutable=["intermediates"])
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  weights = lambda collections: collections["intermediates"]["attention_weights"][0]
  np.testing.assert_allclose(weights(sown), weights(expected_sown), atol=1e-6)


def test_a_depthwise_convolution_starts_as_ones():
  module = make_convnn(num_neighbors=3)
  variables = fast_jit(lambda key: module.init(key, jnp.ones((1, 7, 6)), train=False))(jax.random.key(0))
  np.testing.assert_array_equal(variables["params"]["convolution"]["kernel"], np.ones((3, 6)))


def test_scrambled_heads():
  b, n, h, d = 1, 5, 2, 3
  x = make_tokens(b, n, h * d)
  module = lambda *quirks: make_convnn(num_heads=h, num_neighbors=2, quirks=quirks)
  params = random_params(module(), x)
  params["out"]["kernel"] = np.eye(h * d).reshape(h, d, h * d)  # shows the merged heads themselves
  plain, scrambled = (
    np.asarray(apply_convnn(m, params, x)).reshape(n, h, d) for m in (module(), module("scrambled_heads"))
  )
  for head, token, channel in itertools.product(range(h), range(n), range(d)):
    source = channel * n + token
    assert scrambled[token, head, channel] == plain[source // d, head, source % d]


def _sown_weights(module, x, **kwargs):
  _, sown = apply_convnn(module, random_params(module, x), x, mutable=["intermediates"], **kwargs)
  return np.asarray(sown["intermediates"]["attention_weights"][0])


def test_a_token_is_its_own_neighbor_once_unless_the_mask_is_weak():
  # Token 0 points away from all others: their cosine, -1, is below the weak mask's -0.1.
  x = jnp.asarray([[[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
  spec = dict(num_neighbors=2, similarity="cosine", weighting="similarity", projection="none")
  spec |= dict(candidates="spatial", num_candidates=4)
  np.testing.assert_allclose(_sown_weights(make_convnn(**spec), x)[0, 0, 0], [1, -1, 0, 0], atol=1e-6)
  weak = make_convnn(**spec, quirks=("weak_self_mask",))
  np.testing.assert_allclose(_sown_weights(weak, x)[0, 0, 0], [1 - 0.1, 0, 0, 0], atol=1e-6)


def test_a_hidden_candidate_that_must_be_chosen_weighs_nothing():
  x = jnp.asarray(make_tokens(1, 2, 4), jnp.float32)
  for weighting in ("softmax", "similarity", "sum"):
    module = make_convnn(num_neighbors=2, candidates="spatial", num_candidates=2, weighting=weighting)
    assert np.all(np.isfinite(_sown_weights(module, x)))
  one = make_convnn(num_neighbors=1, candidates="spatial", num_candidates=1)
  np.testing.assert_array_equal(_sown_weights(one, x)[0, 0], np.eye(2))


def test_a_weak_mask_allows_one_neighbor_more_than_candidates():
  spec = dict(num_heads=2, num_neighbors=6, similarity="cosine", quirks=("weak_self_mask",))
  _check_against_loops(make_tokens(1, 7, 6), spec, chosen=CHOSEN)


@pytest.mark.parametrize("projection", ["qkv", "none"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradients_are_finite_at_zeros_and_duplicates(similarity, projection):
  zeros, duplicates = np.zeros((1, 6, 4)), np.tile(make_tokens(1, 1, 4), (1, 6, 1))
  half = np.concatenate([make_tokens(1, 3, 4)] * 2, axis=1)
  x = jnp.asarray(np.concatenate([zeros, duplicates, half]), jnp.float32)
  modules = [
    make_convnn(
      num_heads=2, num_neighbors=3, similarity=similarity, projection=projection, weighting=weighting
    )
    for weighting in WEIGHTINGS
  ]
  params = random_params(modules[0], x)
  total = lambda p, x: sum(jnp.sum(jnp.sin(m.apply({"params": p}, x, train=False))) for m in modules)
  for leaf in jax.tree.leaves(fast_jit(jax.grad(total, argnums=(0, 1)))(params, x)):
    assert np.all(np.isfinite(leaf))


def test_bias_hides_a_candidate():
  x = jnp.asarray(make_tokens(2, 7, 6), jnp.float32)
  hide = jnp.where(jnp.arange(7) == 2, -1e9, 0.0)[None, None, None]
  everything = make_convnn(num_heads=2, num_neighbors=7)
  assert np.all(_sown_weights(everything, x)[..., 2] > 0)
  assert np.all(_sown_weights(everything, x, bias=hide)[..., 2] == 0)
  for candidates in ("all", "spatial"):
    module = make_convnn(num_heads=2, num_neighbors=3, candidates=candidates, num_candidates=7)
    moved = x + 3.0 * (jnp.arange(7) == 2)[None, :, None]
    both = jnp.concatenate([x, moved])
    out, changed = np.split(np.asarray(apply_convnn(module, random_params(module, x), both, bias=hide)), 2)
    others = np.arange(7) != 2
    np.testing.assert_allclose(out[:, others], changed[:, others], atol=1e-6)


def test_cross_attention():
  x, context = (
    jnp.asarray(make_tokens(2, 5, 6), jnp.float32),
    jnp.asarray(make_tokens(2, 9, 6, seed=1), jnp.float32),
  )
  module = make_convnn(num_heads=2, num_neighbors=3)
  params = random_params(module, x)
  out = lambda x, context: apply_convnn(module, params, x, context=context)
  # Products of other shapes may add up in other orders.
  np.testing.assert_allclose(out(x, x), out(x, None), atol=1e-6)
  assert out(x, context).shape == x.shape
  order = np.random.default_rng(0).permutation(9)
  np.testing.assert_allclose(out(x, context), out(x, context[:, order]), atol=1e-6)
  sampled = make_convnn(num_neighbors=3, candidates="random", num_candidates=5)
  with pytest.raises(UserError, match="cross-attention"):
    sampled.init(jax.random.key(0), x, context=context, train=False)


def test_random_candidates_are_fixed_in_evaluation_and_new_in_every_step():
  x = jnp.asarray(make_tokens(1, 12, 6), jnp.float32)
  module = make_convnn(num_neighbors=3, candidates="random", num_candidates=4, dropout_rate=0.0)
  params = random_params(module, x)
  evaluate = lambda **kwargs: apply_convnn(module, params, x, **kwargs)
  apply_step = fast_jit(lambda key: module.apply({"params": params}, x, train=True, rngs={"candidates": key}))
  step = lambda seed: apply_step(jax.random.key(seed))
  np.testing.assert_array_equal(evaluate(), evaluate())
  np.testing.assert_array_equal(step(1), step(1))
  draws = [np.asarray(step(seed)) for seed in range(4)] + [np.asarray(evaluate())]
  assert all(not np.array_equal(a, b) for a, b in itertools.combinations(draws, 2))
  same = evaluate(rngs={"candidates": jax.random.key(1)})
  np.testing.assert_allclose(same, step(1), atol=1e-6)

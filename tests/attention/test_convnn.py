"""ConvNN attention against loops, against softmax attention, and its rules one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def _tokens(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def _module(**spec):
  return make_attention(dict(name="convnn", **spec))


def _params(module, x, seed=1):
  """Random values for every parameter: kernels of ones would hide mistakes, and init would be compiled."""
  init = lambda x: module.init(jax.random.key(0), x, train=False)
  shapes = jax.eval_shape(init, jax.ShapeDtypeStruct(x.shape, np.float32))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), dict(shapes["params"]))


def _apply(module, params, x, **kwargs):
  """The module's output in evaluation; `params` as made by _params."""
  x = jnp.asarray(x, jnp.float32)
  return fast_jit(lambda p, x: module.apply({"params": p}, x, train=False, **kwargs))(params, x)


def _check_against_loops(x, *specs, chosen=None):
  """Both in float64; all specs are compiled together, which is quicker."""
  sampled = {} if chosen is None else dict(candidates="random", num_candidates=len(chosen))
  modules = [_module(**spec | sampled) for spec in specs]
  params = [_params(module, x) for module in modules]
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
    _check_against_loops(_tokens(2, 7, 6), *specs[: 3 if chosen is None else 1], chosen=chosen)


@pytest.mark.parametrize("quirks", [(), ("rank_coordinates",)])
def test_coordinates_equal_loops(quirks):
  spec = dict(num_heads=2, num_neighbors=3, convolution="standard", coordinate_encoding=True, quirks=quirks)
  specs = [spec | dict(similarity=similarity) for similarity in SIMILARITIES]
  _check_against_loops(_tokens(1, 7, 6), *specs, chosen=CHOSEN)
  if not quirks:  # it is about sampled candidates
    _check_against_loops(_tokens(1, 7, 6), *specs)


def test_features_and_positions_in_every_combination_equal_loops():
  uses = itertools.product(("features", "positions", "both"), repeat=2)
  spec = dict(num_heads=2, num_neighbors=3, convolution="standard")  # distances of even steps would be ties
  specs = [spec | dict(similarity_on=compared, aggregate_on=convolved) for compared, convolved in uses]
  specs.append(spec | dict(aggregate_on="positions", convolution="depthwise_separable"))
  _check_against_loops(_tokens(1, 6, 6), *specs)
  _check_against_loops(_tokens(1, 6, 6), *specs[3:6], chosen=CHOSEN[1:])
  # What is not read is not projected.
  roles = lambda spec: set(_params(_module(**spec), _tokens(1, 6, 6))) - {"out", "convolution"}
  assert roles(spec | dict(similarity_on="positions")) == {"value"}
  assert roles(spec | dict(aggregate_on="positions")) == {"query", "key"}


def test_neighbors_by_position_are_the_nearest_along_the_sequence():
  x = jnp.asarray(_tokens(1, 7, 6), jnp.float32)
  module = _module(num_neighbors=3, similarity="euclidean", similarity_on="positions")
  sown = module.apply({"params": _params(module, x)}, x, train=False, mutable=["intermediates"])[1]
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
  x = jnp.asarray(_tokens(1, 13, 6), jnp.float32)
  module = _module(num_neighbors=3, candidates="spatial_grid", num_candidates=4)
  options = dict(train=False, grid=TokenGrid(3, 4, num_prefix=1), mutable=["intermediates"])
  params = _params(_module(num_neighbors=3), x)  # the candidates change no parameter
  sown = module.apply({"params": params}, x, **options)[1]["intermediates"]["attention_weights"][0]
  seen = np.flatnonzero((np.asarray(sown[0, 0]) > 0).sum(0) > 1)  # by others than itself
  assert set(seen) <= {1, 4, 9, 12}


@pytest.mark.parametrize("projection", ["qk", "v", "none"])
def test_projections_and_biases_equal_loops(projection):
  spec = dict(num_heads=2, num_neighbors=3, similarity="cosine", projection=projection)
  spec |= dict(qkv_bias=True, out_bias=True, convolution_bias=True)
  specs = [spec | dict(convolution=kind) for kind in CONVOLUTIONS]
  _check_against_loops(_tokens(1, 7, 6), *specs)
  # The loops use the biases that exist: every kernel must have one.
  for params in (flat(_params(_module(**spec), _tokens(1, 7, 6))) for spec in specs):
    kernels, biases = ([p for p in params if p.endswith(end)] for end in ("kernel", "bias"))
    assert [p.replace("kernel", "bias") for p in kernels] == biases


@pytest.mark.parametrize("weighting", ["softmax", "similarity", "sum"])
def test_distances_of_the_first_versions_equal_loops(weighting):
  quirks = ("self_fill", "distance_weights")
  spec = dict(num_heads=2, num_neighbors=3, similarity="euclidean", weighting=weighting)
  _check_against_loops(_tokens(2, 7, 6), spec | dict(quirks=quirks, self_fill_value=-0.1))


@pytest.mark.parametrize("num_heads", [1, 2, 3])
def test_all_neighbors_equal_softmax_attention(num_heads):
  x = _tokens(2, 17, 24)
  convnn = _module(num_heads=num_heads, num_neighbors=17)
  softmax = make_attention(dict(name="softmax", num_heads=num_heads))
  shared = _params(softmax, x)
  params = shared | {"convolution": {"kernel": np.ones((17, 24 // num_heads))}}
  ours, sown = _apply(convnn, params, x, mutable=["intermediates"])
  expected, expected_sown = _apply(softmax, shared, x, mutable=["intermediates"])
  np.testing.assert_allclose(ours, expected, atol=1e-5)
  weights = lambda collections: collections["intermediates"]["attention_weights"][0]
  np.testing.assert_allclose(weights(sown), weights(expected_sown), atol=1e-6)


def test_a_depthwise_convolution_starts_as_ones():
  module = _module(num_neighbors=3)
  variables = fast_jit(lambda key: module.init(key, jnp.ones((1, 7, 6)), train=False))(jax.random.key(0))
  np.testing.assert_array_equal(variables["params"]["convolution"]["kernel"], np.ones((3, 6)))


def test_scrambled_heads():
  b, n, h, d = 1, 5, 2, 3
  x = _tokens(b, n, h * d)
  module = lambda *quirks: _module(num_heads=h, num_neighbors=2, quirks=quirks)
  params = _params(module(), x)
  params["out"]["kernel"] = np.eye(h * d).reshape(h, d, h * d)  # shows the merged heads themselves
  plain, scrambled = (
    np.asarray(_apply(m, params, x)).reshape(n, h, d) for m in (module(), module("scrambled_heads"))
  )
  for head, token, channel in itertools.product(range(h), range(n), range(d)):
    source = channel * n + token
    assert scrambled[token, head, channel] == plain[source // d, head, source % d]


def _sown_weights(module, x, **kwargs):
  _, sown = _apply(module, _params(module, x), x, mutable=["intermediates"], **kwargs)
  return np.asarray(sown["intermediates"]["attention_weights"][0])


def test_a_token_is_its_own_neighbor_once_unless_the_mask_is_weak():
  # Token 0 points away from all others: their cosine, -1, is below the weak mask's -0.1.
  x = jnp.asarray([[[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
  spec = dict(num_neighbors=2, similarity="cosine", weighting="similarity", projection="none")
  spec |= dict(candidates="spatial", num_candidates=4)
  np.testing.assert_allclose(_sown_weights(_module(**spec), x)[0, 0, 0], [1, -1, 0, 0], atol=1e-6)
  weak = _module(**spec, quirks=("weak_self_mask",))
  np.testing.assert_allclose(_sown_weights(weak, x)[0, 0, 0], [1 - 0.1, 0, 0, 0], atol=1e-6)


def test_a_hidden_candidate_that_must_be_chosen_weighs_nothing():
  x = jnp.asarray(_tokens(1, 2, 4), jnp.float32)
  for weighting in ("softmax", "similarity", "sum"):
    module = _module(num_neighbors=2, candidates="spatial", num_candidates=2, weighting=weighting)
    assert np.all(np.isfinite(_sown_weights(module, x)))
  one = _module(num_neighbors=1, candidates="spatial", num_candidates=1)
  np.testing.assert_array_equal(_sown_weights(one, x)[0, 0], np.eye(2))


@pytest.mark.parametrize(
  "spec",
  [
    dict(num_neighbors=8),
    dict(num_neighbors=0),
    dict(num_neighbors=6, candidates="random", num_candidates=5),
    dict(num_neighbors=7, candidates="spatial", num_candidates=5, quirks=("weak_self_mask",)),
    dict(num_neighbors=3, candidates="random", num_candidates=8),
    dict(num_neighbors=3, candidates="spatial", num_candidates=5, candidate_padding=2),
  ],
)
def test_too_few_candidates(spec):
  with pytest.raises(UserError, match="num_neighbors=|num_candidates="):
    _params(_module(**spec), jnp.ones((1, 7, 4)))


def test_a_weak_mask_allows_one_neighbor_more_than_candidates():
  spec = dict(num_heads=2, num_neighbors=6, similarity="cosine", quirks=("weak_self_mask",))
  _check_against_loops(_tokens(1, 7, 6), spec, chosen=CHOSEN)


@pytest.mark.parametrize("projection", ["qkv", "none"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradients_are_finite_at_zeros_and_duplicates(similarity, projection):
  zeros, duplicates = np.zeros((1, 6, 4)), np.tile(_tokens(1, 1, 4), (1, 6, 1))
  half = np.concatenate([_tokens(1, 3, 4)] * 2, axis=1)
  x = jnp.asarray(np.concatenate([zeros, duplicates, half]), jnp.float32)
  modules = [
    _module(num_heads=2, num_neighbors=3, similarity=similarity, projection=projection, weighting=weighting)
    for weighting in WEIGHTINGS
  ]
  params = _params(modules[0], x)
  total = lambda p, x: sum(jnp.sum(jnp.sin(m.apply({"params": p}, x, train=False))) for m in modules)
  for leaf in jax.tree.leaves(fast_jit(jax.grad(total, argnums=(0, 1)))(params, x)):
    assert np.all(np.isfinite(leaf))


def test_bias_hides_a_candidate():
  x = jnp.asarray(_tokens(2, 7, 6), jnp.float32)
  hide = jnp.where(jnp.arange(7) == 2, -1e9, 0.0)[None, None, None]
  everything = _module(num_heads=2, num_neighbors=7)
  assert np.all(_sown_weights(everything, x)[..., 2] > 0)
  assert np.all(_sown_weights(everything, x, bias=hide)[..., 2] == 0)
  for candidates in ("all", "spatial"):
    module = _module(num_heads=2, num_neighbors=3, candidates=candidates, num_candidates=7)
    moved = x + 3.0 * (jnp.arange(7) == 2)[None, :, None]
    both = jnp.concatenate([x, moved])
    out, changed = np.split(np.asarray(_apply(module, _params(module, x), both, bias=hide)), 2)
    others = np.arange(7) != 2
    np.testing.assert_allclose(out[:, others], changed[:, others], atol=1e-6)


def test_cross_attention():
  x, context = jnp.asarray(_tokens(2, 5, 6), jnp.float32), jnp.asarray(_tokens(2, 9, 6, seed=1), jnp.float32)
  module = _module(num_heads=2, num_neighbors=3)
  params = _params(module, x)
  out = lambda x, context: _apply(module, params, x, context=context)
  np.testing.assert_array_equal(out(x, x), out(x, None))
  assert out(x, context).shape == x.shape
  order = np.random.default_rng(0).permutation(9)
  np.testing.assert_allclose(out(x, context), out(x, context[:, order]), atol=1e-6)
  sampled = _module(num_neighbors=3, candidates="random", num_candidates=5)
  with pytest.raises(UserError, match="cross-attention"):
    sampled.init(jax.random.key(0), x, context=context, train=False)


def test_random_candidates_are_fixed_in_evaluation_and_new_in_every_step():
  x = jnp.asarray(_tokens(1, 12, 6), jnp.float32)
  module = _module(num_neighbors=3, candidates="random", num_candidates=4, dropout_rate=0.0)
  params = _params(module, x)
  evaluate = lambda **kwargs: _apply(module, params, x, **kwargs)
  apply_step = fast_jit(lambda key: module.apply({"params": params}, x, train=True, rngs={"candidates": key}))
  step = lambda seed: apply_step(jax.random.key(seed))
  np.testing.assert_array_equal(evaluate(), evaluate())
  np.testing.assert_array_equal(step(1), step(1))
  draws = [np.asarray(step(seed)) for seed in range(4)] + [np.asarray(evaluate())]
  assert all(not np.array_equal(a, b) for a, b in itertools.combinations(draws, 2))
  same = evaluate(rngs={"candidates": jax.random.key(1)})
  np.testing.assert_allclose(same, step(1), atol=1e-6)


@pytest.mark.parametrize("num_candidates", [0, 8, 25])
def test_a_grid_of_candidates_is_square_and_fits(num_candidates):
  with pytest.raises(
    UserError, match=f"num_candidates={num_candidates} must be a square number from 1 to 16"
  ):
    spatial_grid_candidates(4, 5, num_candidates)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (dict(similarity="cosin"), "Did you mean 'cosine'"),
    (dict(weighting="soft_max"), "Did you mean 'softmax'"),
    (dict(convolution="depthwise-separable"), "Did you mean 'depthwise_separable'"),
    (dict(projection="kqv"), "Did you mean 'qkv'"),
    (dict(candidates="randm"), "Did you mean 'random'"),
    (dict(quirks=("scrambled_head",)), "Did you mean 'scrambled_heads'"),
    (dict(num_neighbours=3), "Did you mean 'num_neighbors'"),
    (dict(num_heads=5), "num_heads=5 must divide the width 6"),
    (dict(temperature=0.0), "temperature=0.0 must be at least 1e-6"),
    (dict(coordinate_encoding=True), "coordinate_encoding=True changes the number of channels"),
    (dict(aggregate_on="positions"), "aggregate_on='positions' changes the number of channels"),
    (dict(similarity_on="position"), "Did you mean 'positions'"),
    (dict(coordinate_encoding=True, similarity_on="both"), "either it or the two words"),
    (dict(candidates="spatial_grid", num_candidates=4), "needs the TokenGrid of its 7 tokens"),
    (dict(value_features=3), "needs split_heads=False"),
    (dict(quirks=("distance_weights",)), "needs similarity='euclidean'"),
    (dict(quirks=("weak_self_mask",)), "needs sampled candidates; it has no effect"),
    (dict(quirks=("self_fill",), candidates="spatial", num_candidates=5), "needs candidates='all'"),
    (dict(weighting="sum", temperature=0.5), "temperature=0.5 has no effect with weighting='sum'"),
    (dict(candidate_padding=1), "candidate_padding=1 has no effect with candidates='all'"),
    (dict(candidate_padding=-1), "candidate_padding=-1 has no effect"),
    (dict(self_fill_value=0.5), "self_fill_value=0.5 has no effect without the quirk 'self_fill'"),
  ],
)
def test_mistakes_are_named(spec, message):
  with pytest.raises(UserError, match=message):
    _params(_module(**{"num_neighbors": 3} | spec), jnp.ones((1, 7, 6)))


IMPLEMENTED = {
  "plain": dict(),
  "raw weights, standard": dict(weighting="similarity", convolution="standard", similarity="cosine"),
  "candidates": dict(candidates="random", num_candidates=5),
  "coordinates": dict(convolution="depthwise_separable", coordinate_encoding=True, similarity="euclidean"),
}


@pytest.mark.parametrize("case", IMPLEMENTED)
def test_implementations_agree_in_float64(case):
  spec = dict(num_heads=2, num_neighbors=3) | IMPLEMENTED[case]
  x, bias = _tokens(2, 7, 6), _tokens(1, 2, 7, 7, seed=3)
  modules = [_module(**spec, implementation=word) for word in ("auto", "gather", "onehot", "reference")]
  params = _params(modules[0], x)

  def run(module, params, x):
    value = lambda p, x: jnp.sum(jnp.sin(module.apply({"params": p}, x, train=False, bias=bias)))
    return jax.value_and_grad(value, argnums=(0, 1))(params, x)

  with jax.enable_x64(True):
    results = fast_jit(lambda p, x: [run(module, p, x) for module in modules])(params, x)
  for result in results[1:]:
    for ours, expected in zip(jax.tree.leaves(result), jax.tree.leaves(results[0]), strict=True):
      np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(implementation="fast"), "Unknown implementation 'fast'"),
    (dict(implementation="pallas", similarity="cosine"), "needs similarity='dot'; use implementation='auto'"),
    (dict(implementation="pallas", candidates="random"), "needs candidates='all'"),
    (dict(implementation="pallas", convolution="standard"), "convolution='standard' is not in the kernel"),
    (dict(implementation="pallas", quirks=("self_fill",)), "The quirk 'self_fill' is not in the kernel"),
    (dict(implementation="pallas"), "a kernel for GPUs and this is a cpu"),
  ],
)
def test_implementations_that_cannot_run_are_refused(fields, message):
  x = _tokens(1, 7, 6)
  params = _params(_module(num_neighbors=3), x)
  with pytest.raises(UserError, match=message):
    _apply(_module(num_neighbors=3, **fields), params, x)


def test_the_kernel_gives_what_the_operations_give(monkeypatch):
  from convnn_jax.ops import neighbor_attention

  monkeypatch.setattr(
    "convnn_jax.attention.convnn.neighbor_attention",
    lambda *args, **options: neighbor_attention.neighbor_attention(*args, mode="interpreted", **options),
  )
  x = _tokens(2, 7, 6)
  for extra in (dict(), dict(convolution="depthwise_separable", temperature=0.5)):
    spec = dict(num_heads=2, num_neighbors=3, **extra)
    ours, plain = _module(implementation="pallas", **spec), _module(**spec)
    params = _params(plain, x)
    np.testing.assert_allclose(_apply(ours, params, x), _apply(plain, params, x), rtol=1e-4, atol=1e-5)
    bias = jnp.asarray(_tokens(1, 1, 7, 7, seed=3), jnp.float32)
    biased = [_apply(module, params, x, bias=bias) for module in (ours, plain)]
    np.testing.assert_allclose(*biased, rtol=1e-5, atol=1e-6)

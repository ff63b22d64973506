"""Properties that hold for every registered attention; a new one is tested by being listed."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.attention import ATTENTIONS, TokenGrid, attention_class, make_attention
from convnn_jax.errors import UserError
from convnn_jax.models.encoder import EncoderBlock
from convnn_jax.models.layer_loop import apply_blocks


@dataclasses.dataclass
class Case:
  """The smallest legal spec of a variant, and which properties it has; each exception is tested, too.

  Attributes:
    spec: fields besides the name.
    num_params: at width 24.
    ignores_order: tokens permuted in give tokens permuted out.
    takes_bias, takes_context: False = refused by name.
    heads_divide: the width that num_heads must divide; 0 = any number of heads.
    part: the field that holds num_heads and dropout_rate, for specs inside the spec.
  """

  spec: dict
  num_params: int
  ignores_order: bool = True
  takes_bias: bool = True
  takes_context: bool = True
  heads_divide: int = 24
  part: str = ""

  def changed(self, **fields):
    """The spec with other values of num_heads or dropout_rate."""
    return {**self.spec, **({self.part: {**self.spec[self.part], **fields}} if self.part else fields)}


# Along the sequence of tokens: order matters, and there is only one sequence.
ALONG = dict(ignores_order=False, takes_context=False)
CONVNN, SOFTMAX = dict(num_heads=3, num_neighbors=4), dict(num_heads=3)
CASES = {
  "branching": Case(
    dict(first=dict(name="convnn", **CONVNN), second=dict(name="softmax", **SOFTMAX)),
    2 * (4 * 12 * 12) + 4 * 4 + (24 * 24 + 24),
    heads_divide=12,
    part="first",
  ),
  "conv1d": Case(
    dict(num_heads=3, kernel_size=3), 2 * (24 * 24 + 24) + 3 * 8 * 8 + 8, takes_bias=False, **ALONG
  ),
  "convnn": Case(CONVNN, 4 * 24 * 24 + 4 * 8),
  "knn": Case(dict(num_heads=3, num_neighbors=4), 4 * 24 * 24),
  "local": Case(dict(num_heads=3, head_dim=8, window_size=4), 4 * 24 * 24, heads_divide=0, **ALONG),
  "neighborhood": Case(dict(num_heads=3, window_size=3), 4 * 24 * 24 + 24, **ALONG),
  "reattention": Case(dict(num_heads=3), 4 * 24 * 24 + 24 + 3 * 3 + 2 * 3),
  "softmax": Case(SOFTMAX, 4 * 24 * 24),
  "sot": Case(dict(num_heads=3, variant="query_key"), 4 * 24 * 24, takes_bias=False, takes_context=False),
  "sparse": Case(dict(num_heads=3, pattern="local", window=4), 4 * 24 * 24, **ALONG),
  "spatial_mlp": Case(dict(num_heads=3), 3 * 17 * 17 + 3 * 17, takes_bias=False, **ALONG),
  "window": Case(
    dict(num_heads=3, similarity="cosine", relative_bias="mlp", rel_pos_weight="table", qk_residual=True),
    4 * (24 * 24 + 24) - 24 + 3 + 512 * (2 + 1 + 3) + 49 * 3,
    **ALONG,
  ),
}
ROWS, COLUMNS, WIDTH = 4, 4, 24
GRID = TokenGrid(ROWS, COLUMNS, num_prefix=1)


def test_every_variant_is_listed():
  assert CASES.keys() == ATTENTIONS.keys()


@pytest.fixture(params=sorted(ATTENTIONS), name="variant", scope="module")
def _variant(request):
  case = CASES[request.param]
  module = make_attention({"name": request.param, **case.spec})
  x = jax.random.normal(jax.random.key(1), (8, GRID.num_tokens, WIDTH))
  variables = fast_jit(lambda k: module.init(k, x, train=False, grid=GRID))(jax.random.key(0))
  return case, module, variables, x


@functools.partial(fast_jit, static_argnames=("module", "mutable"))
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


@functools.partial(fast_jit, static_argnames="module")
def gradients(module, variables, x):
  """(value, gradients) of a number that every output takes part in."""
  value = lambda v, x: jnp.sum(jnp.sin(module.apply(v, x, train=False, grid=GRID).astype(jnp.float32)))
  return jax.value_and_grad(value, argnums=(0, 1))(variables, x)


def finite(tree):
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite(variant, dtype):
  _, module, variables, x = variant
  module, x = module.clone(dtype=dtype), x.astype(dtype)
  for odd in (
    jnp.zeros_like(x),
    jnp.broadcast_to(x[:, :1], x.shape),
    x.at[:, 1::2].set(x[:, :-1:2]),
    1e4 * x,
  ):
    assert finite(gradients(module, variables, odd))
  value, grads = gradients(module, variables, x)
  assert finite((value, grads))
  if dtype == jnp.float32:  # every parameter takes part
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[0]))


def test_one_example_of_one_token(variant):
  """With all other tokens gone, and windows and neighbours of one."""
  case, module, _, x = variant
  one = lambda spec: {
    field: one(value)
    if isinstance(value, dict)
    else 1
    if field in ("num_neighbors", "window_size")
    else value
    for field, value in spec.items()
  }
  alone = make_attention({"name": _name(module), **one(case.spec)})

  def run(key, x):
    apply = lambda v, x: alone.apply(v, x, train=False, grid=TokenGrid(1, 1))
    variables = alone.init(key, x, train=False, grid=TokenGrid(1, 1))
    return jax.vjp(apply, variables, x)[0], jax.grad(lambda v: jnp.sum(apply(v, x) ** 2))(variables)

  out, grads = fast_jit(run)(jax.random.key(0), x[:1, :1])
  assert out.shape == (1, 1, WIDTH)
  assert finite((out, grads))


def test_eight_devices_equal_one(variant):
  _, module, variables, x = variant
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  value = lambda v, x: jnp.sum(jnp.sin(module.apply(v, x, train=False, grid=GRID)))
  one = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(variables, x)
  eight = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))(variables, sharded)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), one, eight)


def test_training_draws_from_rngs_and_evaluation_does_not(variant):
  case, module, variables, x = variant
  noisy = make_attention({"name": _name(module), **case.changed(dropout_rate=0.5)})
  rngs = lambda seed: {"dropout": jax.random.key(seed), "candidates": jax.random.key(seed)}
  one, two = (noisy.apply(variables, x, train=True, grid=GRID, rngs=rngs(seed)) for seed in (1, 2))
  assert not np.allclose(one, two)
  np.testing.assert_array_equal(apply(noisy, variables, x), apply(module, variables, x))


@pytest.mark.parametrize("gradients", ["no", pytest.param("yes", marks=pytest.mark.slow)])
def test_blocks_in_a_loop_equal_blocks_one_by_one(variant, gradients):
  """Two of them, with dropout and random choices on."""
  case, module, _, x = variant
  spec = {"name": _name(module), **case.changed(dropout_rate=0.3)}
  rngs = {name: jax.random.key(number) for number, name in enumerate(("dropout", "candidates"))}
  row = lambda word: _Blocks(spec, word)
  variables = fast_jit(lambda k: row("unrolled").init(k, x, train=False))(jax.random.key(0))

  def result(word):
    value = lambda v: row(word).apply(v, x, train=True, rngs=rngs)
    loss = lambda v: jnp.sum(jnp.sin(value(v)))
    return fast_jit(value if gradients == "no" else jax.grad(loss))(variables)

  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4)
  jax.tree.map(close, result("dots"), result("unrolled"))


def test_a_loop_of_blocks_reads_no_array_of_constants(variant):
  """Zeros or places that JAX takes out of the loop, as it differentiates; ops/loop_constants.py keeps them inside."""
  case, _, _, x = variant
  model = _Blocks({"name": _name(variant[1]), **case.changed(dropout_rate=0.3)}, "dots")
  rngs = {name: jax.random.key(number) for number, name in enumerate(("dropout", "candidates"))}
  variables = jax.eval_shape(lambda k: model.init(k, x, train=False), jax.random.key(0))
  loss = lambda v: jnp.sum(jnp.sin(model.apply(v, x, train=True, rngs=rngs)))
  loops = [e for e in jax.make_jaxpr(jax.grad(loss))(variables).eqns if e.primitive.name == "scan"]
  assert len(loops) == 2  # forward and backward
  constants = [v.aval for loop in loops for v in loop.invars[: loop.params["num_consts"]]]
  assert [a.str_short() for a in constants if a.size >= x.size] == []


class _Blocks(nn.Module):
  spec: dict
  word: str

  @nn.compact
  def __call__(self, x, train):
    blocks = [dict(attention=self.spec, mlp_dim=8, dropout_rate=0.1)] * 2
    return apply_blocks(self, EncoderBlock, blocks, x, scan_layers=self.word, train=train, grid=GRID)


def test_attention_weights_are_sown_on_request(variant):
  _, module, variables, x = variant
  n = GRID.num_tokens
  output, sown = apply(module, variables, x, mutable=("intermediates",))
  np.testing.assert_allclose(
    output, apply(module, variables, x), atol=1e-5, err_msg="weights change the output"
  )
  assert "attention_weights" in sown.get("intermediates", {}), "sow them, see CONTRIBUTING.md"
  (weights,) = sown["intermediates"]["attention_weights"]
  assert weights.ndim == 4
  assert (weights.shape[0], weights.shape[2], weights.shape[3]) == (8, n, n)
  assert np.isfinite(weights).all()
  assert "intermediates" not in variables


def test_hidden_tokens_have_no_influence(variant):
  case, module, variables, x = variant
  bias = jnp.zeros((1, 1, 1, GRID.num_tokens)).at[..., -1].set(-1e9)
  if not case.takes_bias:
    with pytest.raises(UserError, match=f"^{_name(module)} attention has no scores"):
      apply(module, variables, x, bias=bias)
    return
  changed = x.at[:, -1].add(3.0)
  before, after = (apply(module, variables, inputs, bias=bias) for inputs in (x, changed))
  np.testing.assert_allclose(before[:, :-1], after[:, :-1], atol=1e-5)
  assert not np.allclose(before, apply(module, variables, x))


def test_context_gives_keys_and_values(variant):
  case, module, variables, x = variant
  context = jax.random.normal(jax.random.key(3), (8, 9, WIDTH))
  if not case.takes_context:
    with pytest.raises(UserError, match=f"^{_name(module)} attention relates positions of one sequence"):
      apply(module, variables, x, context=context)
    return
  assert apply(module, variables, x, context=context).shape == x.shape
  with jax.enable_x64(True):  # in float32 their products may add up in different orders
    x = jnp.asarray(x, jnp.float64)
    np.testing.assert_allclose(apply(module, variables, x, context=x), apply(module, variables, x), atol=1e-6)


def test_an_empty_batch_has_an_empty_result(variant):
  _, module, variables, x = variant
  shape = jax.eval_shape(lambda x: module.apply(variables, x, train=False, grid=GRID), x[:0])
  assert shape.shape == (0, *x.shape[1:])


def test_unknown_field_is_refused(variant):
  case, module, _, _ = variant
  field = next(iter(case.spec))
  with pytest.raises(UserError, match=f"'{field[:-1]}'. Did you mean '{field}'"):
    make_attention({"name": _name(module), **case.spec, field[:-1]: 3})


@pytest.mark.parametrize("heads", [-2, 0, 5])
def test_heads_must_divide_the_width(variant, heads):
  case, module, _, x = variant
  bad = make_attention({"name": _name(module), **case.changed(num_heads=heads)})
  init = lambda: jax.eval_shape(lambda k: bad.init(k, x, train=False, grid=GRID), jax.random.key(0))
  if heads > 0 and not case.heads_divide:
    init()
    return
  rule = (
    f"must divide the width {case.heads_divide}" if case.heads_divide else "and head_dim=8 must be at least 1"
  )
  with pytest.raises(UserError, match=f"num_heads={heads} {rule}"):
    init()


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(UserError, match="Did you mean 'convnn'"):
    attention_class("convn")
  with pytest.raises(UserError, match="has no 'name'"):
    make_attention({"num_heads": 3})


def _name(module):
  return next(name for name in ATTENTIONS if attention_class(name) is type(module))

"""Blocks as one loop are the blocks one by one: values, gradients, random numbers; and when they do not loop."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.extend.core import jaxprs_in_params

from convnn_jax.errors import UserError
from convnn_jax.layers.random_keys import random_key
from convnn_jax.models import make_model
from convnn_jax.models.layer_loop import apply_blocks
from convnn_jax.training import summary

WINDOW = dict(name="window", num_heads=2)
SOFTMAX = dict(name="softmax", num_heads=2)
RANDOM = dict(name="convnn", num_heads=2, num_neighbors=3, candidates="random", num_candidates=5)
SHARED = dict(width=8, dropout_rate=0.2)
MODELS = {
  "vit": dict(name="vit", patch_size=2, depth=3, mlp_dim=12, attention=RANDOM, **SHARED),
  "hybrid": dict(name="hybrid", stem_channels=(2, 4), depth=2, mlp_dim=12, attention=SOFTMAX, **SHARED),
  "cct": dict(
    name="cct", depth=3, mlp_dim=12, stage_width=6, drop_path_rate=0.6, attention=SOFTMAX, **SHARED
  ),
  # Three pairs of blocks without and with shift, and a single one.
  "swin": dict(
    name="swin", patch_size=1, depths=(7,), window_size=(4, 4), drop_path_rate=0.6, attention=WINDOW, **SHARED
  ),
}
RNGS = {name: jax.random.key(number) for number, name in enumerate(("dropout", "drop_path", "candidates"))}


def build(spec, word, dtype=None):
  return make_model(spec | dict(scan_layers=word), num_classes=3, dtype=dtype)


def images(dtype=jnp.float32):
  return jax.random.normal(jax.random.key(1), (2, 8, 8, 3), dtype)


def loops(function, *args):
  """How many loops over whole blocks, the MLP's activation included, stand in the program."""
  program = jax.make_jaxpr(function)(*args)
  return sum(e.primitive.name == "scan" and " erf" in str(e.params["jaxpr"]) for e in program.eqns)


@pytest.mark.parametrize("name", MODELS)
def test_a_loop_computes_what_the_blocks_one_by_one_do(name):
  """In training, with dropout, drop path and random candidates; logits, and gradients of parameters and images."""
  with jax.enable_x64(True):
    x, results = images(jnp.float64), {}
    start = fast_jit(lambda k: build(MODELS[name], "unrolled").init(k, x, train=False))(jax.random.key(0))
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), start)
    for word in ("unrolled", "dots", "full"):
      model = build(MODELS[name], word)

      def value(variables, x, model=model):
        logits = model.apply(variables, x, train=True, rngs=RNGS)
        return jnp.sum(jnp.sin(logits)), logits

      assert loops(value, start, x) == (word != "unrolled")
      results[word] = fast_jit(jax.grad(value, argnums=(0, 1), has_aux=True))(start, x)
  for word in ("dots", "full"):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, results[word], results["unrolled"])
  gradients = results["dots"][0][0]["params"]
  layers = gradients.get("stage_0", gradients)
  assert all(np.abs(g).max() > 0 for n in range(2) for g in jax.tree.leaves(layers[f"block_{n}"]))


def inner_loops(jaxpr, found):
  """How many loops inside of loops, at any depth, have a body of which `found(length, body)` holds."""
  count = 0
  for equation in jaxpr.eqns:
    bodies = jaxprs_in_params(equation.params)
    count += sum(inner_loops(getattr(body, "jaxpr", body), found) for body in bodies)
    if equation.primitive.name == "scan":
      body = equation.params["jaxpr"].jaxpr
      count += found(equation.params["length"], [e.primitive.name for e in body.eqns])
  return count


@pytest.mark.parametrize("name", ["convnn", "knn"])
def test_the_backward_pass_of_a_loop_does_not_select_again(name):
  """But with "full", which keeps nothing."""
  attention = dict(name=name, num_heads=2, num_neighbors=5)
  x = images()
  # Passes over the scores by their largest value; the k-th largest, bit by bit.
  found = {
    "convnn": lambda length, body: length == 5 and "reduce_max" in body,
    "knn": lambda length, body: length == 32 and "shift_left" in body,
  }[name]

  def searches(word):
    model = build(MODELS["vit"] | dict(attention=attention), word)
    start = model.init(jax.random.key(0), x, train=False)
    loss = lambda variables: jnp.sum(jnp.sin(model.apply(variables, x, train=True, rngs=RNGS)))
    return inner_loops(jax.make_jaxpr(jax.grad(loss))(start).jaxpr, found)

  assert {word: searches(word) for word in ("dots", "full")} == {"dots": 1, "full": 2}


@pytest.mark.parametrize("members", ["of both", "of parameters", "of random numbers"])
def test_members_have_the_gradients_of_their_own_blocks(members):
  """Of runs that are trained at once: each block's gradient goes to that block."""
  x = images()
  start = fast_jit(lambda k: build(MODELS["vit"], "unrolled").init(k, x, train=False))
  variables = [start(jax.random.key(seed)) for seed in (0, 1)]
  rngs = [{name: jax.random.fold_in(key, seed) for name, key in RNGS.items()} for seed in (0, 1)]
  several = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
  axes = (None if members == "of random numbers" else 0, None if members == "of parameters" else 0)
  args = [
    trees[0] if axis is None else several(trees) for trees, axis in zip((variables, rngs), axes, strict=True)
  ]

  def gradients(word):
    model = build(MODELS["vit"], word)
    loss = lambda variables, rngs: jnp.sum(jnp.sin(model.apply(variables, x, train=True, rngs=rngs)))
    function = jax.vmap(jax.grad(loss), axes)
    assert loops(function, *args) == (word == "dots") * 2  # there and back
    return fast_jit(function)(*args)

  one_by_one, looped = gradients("unrolled"), gradients("dots")
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), looped, one_by_one)


def test_new_parameters_are_the_same_and_in_the_same_places():
  x = images()
  make = lambda word: jax.jit(lambda k: build(MODELS["cct"], word).init(k, x, train=False))(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, make("dots"), make("unrolled"))
  assert {"block_0", "block_1", "block_2"} <= make("dots")["params"].keys()


class Draws(nn.Module):
  """Adds random numbers, drawn twice, and one more from its submodule."""

  draw: str = "random_key"

  @nn.compact
  def __call__(self, x, train):
    key = (lambda: random_key(self, "noise")) if self.draw == "random_key" else lambda: self.make_rng("noise")
    x = jnp.concatenate([x[1:], jax.random.normal(key(), (1,)) + jax.random.normal(key(), (1,))])
    return Draws(self.draw, name="inner")(x, train) if self.name != "inner" else x


class Row(nn.Module):
  """Blocks in a row, below a module with a name."""

  block: type[nn.Module] = Draws
  fields: tuple = ({},) * 3
  word: str = "dots"

  @nn.compact
  def __call__(self, x):
    bias = self.param("bias", nn.initializers.zeros, x.shape)
    return apply_blocks(self, self.block, self.fields, x + bias, scan_layers=self.word, train=True)


class Nested(nn.Module):
  row: dict

  @nn.compact
  def __call__(self, x):
    return Row(**self.row, name="row")(x)


@pytest.mark.parametrize("separator", [False, True])
def test_random_keys_are_those_of_the_blocks_one_by_one(separator):
  before = flax.config.flax_fix_rng_separator
  flax.config.update("flax_fix_rng_separator", separator)
  try:
    results = {}
    for word in ("unrolled", "dots"):
      model = Nested(dict(word=word))
      x = jnp.zeros(6)
      params = {"params": {"row": {"bias": x}}}
      results[word] = jax.jit(lambda p, m=model, x=x: m.apply(p, x, rngs={"noise": jax.random.key(3)}))(
        params
      )
  finally:
    flax.config.update("flax_fix_rng_separator", before)
  np.testing.assert_array_equal(results["dots"], results["unrolled"])
  assert len(set(results["dots"].tolist())) == 6  # no two draws are alike


def test_make_rng_differs_between_layers_too():
  model = Nested(dict(fields=({"draw": "make_rng"},) * 3))
  params = {"params": {"row": {"bias": jnp.zeros(6)}}}
  draw = jax.jit(lambda seed: model.apply(params, jnp.zeros(6), rngs={"noise": jax.random.key(seed)}))
  assert len(set(draw(0).tolist()) | set(draw(1).tolist())) == 12


def test_missing_rngs_are_named():
  model = build(MODELS["cct"], "dots")
  variables = jax.eval_shape(lambda k: model.init(k, images(), train=False), jax.random.key(0))
  with pytest.raises(flax.errors.InvalidRngError, match="needs PRNG"):
    jax.eval_shape(lambda v: model.apply(v, images(), train=True), variables)


class Scales(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return x * self.param("scale", nn.initializers.ones, (), jnp.float32)


def test_blocks_that_change_the_type_run_one_by_one():
  model = Row(Scales, word="dots")
  params = {
    "params": {
      "bias": jnp.zeros(2, jnp.bfloat16),
      **{f"block_{n}": {"scale": 2.0 + jnp.zeros(())} for n in range(3)},
    }
  }
  y = jax.jit(lambda p: model.apply(p, jnp.ones(2, jnp.bfloat16)))(params)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, 8.0)


def test_weights_and_given_candidates_run_the_blocks_one_by_one():
  x = images()
  looped, plain = build(MODELS["vit"], "dots"), build(MODELS["vit"], "unrolled")
  variables = fast_jit(lambda k: plain.init(k, x, train=False))(jax.random.key(0))
  sow = lambda m: fast_jit(lambda v: m.apply(v, x, train=False, mutable=["intermediates"]))(variables)
  jax.tree.map(np.testing.assert_array_equal, sow(looped), sow(plain))
  assert len(sow(looped)[1]["intermediates"]) == 3
  index = jnp.arange(5)
  given = variables | {"candidates": {f"block_{n}": {"attention": {"index": index}} for n in range(3)}}
  evaluate = lambda v: looped.apply(v, x, train=False)
  assert (loops(evaluate, variables), loops(evaluate, given)) == (1, 0)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_auto_loops_in_compiled_training_only(dtype, monkeypatch):
  x, model = images(), build(MODELS["cct"], "auto", dtype)
  variables = jax.eval_shape(lambda k: model.init(k, x, train=False), jax.random.key(0))
  apply = lambda train: loops(lambda v: model.apply(v, x, train=train, rngs=RNGS), variables)
  assert (apply(True), apply(False)) == (1, 0)
  row = Row(Scales, word="auto")  # nothing is traced: a loop would be compiled by itself
  params = {"bias": jnp.zeros(2), **{f"block_{n}": {"scale": 2.0 + jnp.zeros(())} for n in range(3)}}
  with monkeypatch.context() as patch:
    patch.setattr(jax.lax, "scan", None)
    np.testing.assert_array_equal(row.apply({"params": params}, jnp.ones(2)), 8.0)


def test_flops_count_every_turn():
  shapes = lambda m: jax.eval_shape(lambda k: m.init(k, images(), train=False), jax.random.key(0))
  count = lambda m: summary.flops(lambda v: m.apply(v, images(), train=False), shapes(m))
  assert count(build(MODELS["swin"], "dots")) == count(build(MODELS["swin"], "unrolled"))


def test_an_unknown_word_is_refused():
  with pytest.raises(UserError, match="Unknown scan_layers 'dot'. Did you mean 'dots'"):
    jax.eval_shape(lambda k: build(MODELS["vit"], "dot").init(k, images(), train=False), jax.random.key(0))

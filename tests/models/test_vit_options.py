"""What the ViT has beyond the published ConvNN code: patch norms, position tables, poolings, in plain arithmetic."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from flax.core import FrozenDict
from random_params import random_params

from convnn_jax.attention import ATTENTIONS, make_attention
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.layers.tokenizer import PatchEmbedding
from convnn_jax.models import make_model, presets
from convnn_jax.models.readout import QueryPooling

SMALL = dict(name="vit", patch_size=4, width=24, depth=1, mlp_dim=8, attention=dict(name="softmax"))
X = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def run(model, variables, x=X, **options):
  return fast_jit(lambda v, x: model.apply(v, x, train=False, **options))(variables, x)


def normalised(x, p):
  mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("patch_size", [4, (4, 6)])
@pytest.mark.parametrize("norm", ["none", "after", "both"])
def test_patch_embedding_is_its_plain_loop(norm, patch_size):
  module = PatchEmbedding(patch_size, 5, norm)
  shapes = jax.eval_shape(lambda k: module.init(k, X), jax.random.key(1))["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
  out = np.asarray(fast_jit(module.apply)({"params": params}, X))
  p, q = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
  kernel = params["projection"]["kernel"].reshape(-1, 5)
  for b in range(2):
    for y in range(8 // p):
      for x in range(12 // q):
        patch = np.asarray(X)[b, y * p : y * p + p, x * q : x * q + q].reshape(-1)  # row, column, channel
        patch = normalised(patch, params["pixel_norm"]) if norm == "both" else patch
        token = patch @ kernel + params["projection"]["bias"]
        token = token if norm == "none" else normalised(token, params["norm"])
        np.testing.assert_allclose(out[b, y * (12 // q) + x], token, atol=1e-4)


def test_rows_of_a_long_table_behind_the_tokens_are_never_used():
  spec = SMALL | dict(position_embedding="learned", position_std=1.0)
  long, short = (make_model(spec | dict(num_positions=rows), num_classes=3) for rows in (11, 0))
  variables = random_params(long, X)
  table = variables["params"]["position_embedding"]["table"]
  assert table.shape == (11, 24)
  cut = {"params": variables["params"] | {"position_embedding": {"table": table[:7]}}}
  np.testing.assert_array_equal(run(long, variables), run(short, cut))
  gradient = fast_jit(jax.grad(lambda v: jnp.sum(jnp.sin(long.apply(v, X, train=False)))))(variables)
  rows = np.abs(gradient["params"]["position_embedding"]["table"]).max(axis=-1)
  assert np.all(rows[:7] > 0)
  assert np.all(rows[7:] == 0)


def test_learned_positions_start_with_their_standard_deviation():
  module = PositionEmbedding("learned", std=1.0, num_positions=500)
  table = module.init(jax.random.key(0), jnp.zeros((1, 3, 20)))["params"]["table"]
  np.testing.assert_allclose(np.std(table), 1.0, rtol=0.05)


def test_mean_all_counts_the_class_token_and_mean_has_none():
  every, patches = (
    make_model(SMALL | dict(pooling=pooling), num_classes=3) for pooling in ("mean_all", "mean")
  )
  variables = random_params(every, X)
  names = jax.eval_shape(lambda k: patches.init(k, X, train=False), jax.random.key(0))["params"].keys()
  assert variables["params"].keys() - names == {"class_token"}
  capture = lambda v: every.apply(v, X, train=False, capture_intermediates=True, mutable=["intermediates"])
  logits, seen = fast_jit(capture)(variables)
  tokens = np.asarray(seen["intermediates"]["block_0"]["__call__"][0])
  assert tokens.shape == (2, 7, 24)
  head = jax.tree.map(np.asarray, variables["params"]["head"])
  np.testing.assert_allclose(logits, tokens.mean(axis=1) @ head["kernel"] + head["bias"], atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_norm_before_and_after_pooling_are_one_for_the_class_token(pooling):
  spec = SMALL | dict(pooling=pooling)
  before, after = (
    make_model(spec | dict(final_norm=n), num_classes=3) for n in ("layer_norm", "after_pooling")
  )
  variables = random_params(before, X)
  same = np.allclose(run(before, variables), run(after, variables), atol=1e-5)
  assert same == (pooling == "cls")


def test_embedding_dropout_is_on_in_training_only():
  rates = dict(dropout_rate=0.0, embedding_dropout_rate=0.5, attention=dict(name="softmax", dropout_rate=0.0))
  model = make_model(SMALL | rates, num_classes=3)
  variables = random_params(model, X)
  noisy = fast_jit(lambda seed: model.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)}))
  one, two = noisy(1), noisy(2)
  assert not np.allclose(one, two)
  np.testing.assert_allclose(
    run(model, variables), run(make_model(SMALL, num_classes=3), variables), atol=1e-6
  )


def test_query_pooling_is_its_plain_arithmetic():
  tokens = jax.random.normal(jax.random.key(2), (2, 5, 6))
  module = QueryPooling(FrozenDict(name="softmax", num_heads=1), num_queries=3)
  params = random_params(module, tokens)["params"]
  out = run(module, {"params": params}, tokens)
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  into = lambda x, name: x @ p["attention"][name]["kernel"][:, 0]
  asked = into(normalised(p["queries"], p["query_norm"]), "query")
  for example, pooled in zip(np.asarray(tokens, np.float64), out, strict=True):
    context = normalised(example, p["context_norm"])
    scores = np.exp(asked @ into(context, "key").T / np.sqrt(6))
    weights = scores / scores.sum(-1, keepdims=True)
    gathered = weights @ into(context, "value") @ p["attention"]["out"]["kernel"][0]
    np.testing.assert_allclose(pooled, (p["queries"] + gathered).mean(0), atol=1e-5)


def test_query_pooling_works_with_every_attention_that_has_a_context():
  """Those that have none say so by name."""
  fields = dict(convnn=dict(num_neighbors=4), knn=dict(num_neighbors=4))
  one = lambda name: dict(name=name, **fields.get(name, {}))
  for name in ATTENTIONS:
    spec = one(name) | (dict(first=one("convnn"), second=one("softmax")) if name == "branching" else {})
    spec |= dict(window_size=3) if name == "neighborhood" else dict(window_size=4) if name == "local" else {}
    model = make_model(SMALL | dict(attention=spec, pooling="query", num_queries=4), num_classes=3)
    shape = lambda m=model: (
      jax.eval_shape(lambda k: m.init_with_output(k, X, train=False)[0], jax.random.key(0)).shape
    )
    x = jnp.zeros((1, 4, 24))
    attention = make_attention(spec)
    try:
      jax.eval_shape(lambda k, a=attention: a.init(k, x, train=False, context=x), jax.random.key(0))
    except UserError as error:
      assert f"{name} attention relates positions of one sequence" in str(error)  # noqa: PT017
      with pytest.raises(UserError, match=f"{name} attention relates positions of one sequence"):
        shape()
    else:
      assert shape() == (2, 3)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(patch_norm="before"), "Unknown patch_norm 'before'"),
    (dict(patch_size=(4, 5)), r"patch_size=\(4, 5\) must divide the image of 8 x 12"),
    (dict(num_positions=9), "num_positions=9 must be 0, or with position_embedding='learned' at least 7"),
    (dict(num_positions=6, position_embedding="learned"), "num_positions=6 must be 0"),
    (dict(pooling="query", num_queries=0), "num_queries=0 must be at least 1"),
    (dict(num_queries=4), "num_queries=4 has no effect with pooling='cls'"),
    (dict(embedding_dropout_rate=1.0), "dropout_rate=1.0 must lie in"),
  ],
)
def test_mistakes_are_named(change, message):
  model = make_model(SMALL | change, num_classes=3)
  key = jax.random.key(0)
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda k: model.init(dict(params=k, dropout=k), X, train=True), key)


def test_norm_epsilon_and_activation_reach_every_block_and_the_final_norm():
  """One block by hand, at the epsilon and with the GELU that the fields say."""
  spec = SMALL | dict(
    patch_norm="none", pooling="mean", position_embedding="none", final_norm="layer_norm", norm_epsilon=0.5
  )
  spec["attention"] = dict(name="softmax", num_heads=1)
  tanh, exact = (make_model(spec | dict(activation=word), num_classes=3) for word in ("gelu_tanh", "gelu"))
  variables = random_params(tanh, X)
  variables["params"]["block_0"]["mlp"]["out"]["kernel"] *= 30  # the two GELUs differ by 5e-4 at most
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])

  def norm(x, p):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 0.5) * p["scale"] + p["bias"]

  def logits(image, gelu):
    patches = image.reshape(2, 4, 3, 4, 3).swapaxes(1, 2).reshape(6, 48)
    x = patches @ p["patch_embedding"]["projection"]["kernel"].reshape(48, 24)
    x = x + p["patch_embedding"]["projection"]["bias"]
    block, attention = p["block_0"], p["block_0"]["attention"]
    y = norm(x, block["norm1"])
    query, key, value = (y @ attention[role]["kernel"][:, 0] for role in ("query", "key", "value"))
    scores = np.exp(query @ key.T / np.sqrt(24))
    x = x + scores / scores.sum(-1, keepdims=True) @ value @ attention["out"]["kernel"][0]
    y = norm(x, block["norm2"])
    hidden = gelu(y @ block["mlp"]["hidden_layer"]["kernel"] + block["mlp"]["hidden_layer"]["bias"])
    x = x + hidden @ block["mlp"]["out"]["kernel"] + block["mlp"]["out"]["bias"]
    return norm(x, p["final_norm"]).mean(0) @ p["head"]["kernel"] + p["head"]["bias"]

  erf = lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
  by_tanh = lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  images = np.asarray(X, np.float64)
  for model, gelu in ((tanh, by_tanh), (exact, erf)):
    np.testing.assert_allclose(run(model, variables), [logits(image, gelu) for image in images], atol=2e-5)
  gap = np.abs(logits(images[0], by_tanh) - logits(images[0], erf)).max()
  assert gap > 6e-5  # so that the two cannot be confused above


def test_epsilon_must_be_larger_than_0_and_the_activation_known():
  for change, message in (
    (dict(norm_epsilon=0.0), "norm_epsilon=0.0 must"),
    (dict(activation="gelo"), "'gelu'"),
  ):
    model = make_model(SMALL | change, num_classes=3)
    with pytest.raises(UserError, match=message):
      jax.eval_shape(lambda k: model.init(k, X, train=False), jax.random.key(0))  # noqa: B023 - used in this turn


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("vit_tiny_16", 5_717_416),
    ("vit_small_16", 22_050_664),
    ("vit_small_32", 22_878_952),
    ("vit_base_16", 86_567_656),
    ("vit_base_32", 88_224_232),
    ("vit_large_16", 304_326_632),
    ("vit_huge_14", 632_045_800),
  ],
)
def test_pretrained_sizes_have_the_published_counts(name, count):
  """With 1000 classes, at 224 pixels."""
  model = make_model(presets.model(name), num_classes=1000)
  init = lambda k: model.init(k, jnp.zeros((1, 224, 224, 3)), train=False)
  tree = jax.eval_shape(init, jax.random.key(0))["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == count

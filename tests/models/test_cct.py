"""The compact transformers: published sizes, options, the peculiar block, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit

from convnn_jax.errors import UserError
from convnn_jax.layers.conv_tokenizer import ConvTokenizer
from convnn_jax.layers.pooling import SequencePooling
from convnn_jax.models import make_model, presets
from convnn_jax.models.cct import CompactBlock

SOFTMAX = dict(name="softmax", num_heads=2)
SMALL = dict(name="cct", width=8, depth=2, mlp_dim=12, stage_width=6, attention=SOFTMAX)


def shapes(spec, image=(32, 32, 3), num_classes=10):
  model = make_model(spec, num_classes=num_classes)
  return jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, *image)), train=False), jax.random.key(0))[
    "params"
  ]


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


# Counted in the published code. Fixed positions are counted there, too; here they are constants.
NUM_PARAMS = {
  "vit_2_4_32": 214_666,
  "vit_4_4_32": 413_066,
  "vit_6_4_32": 3_190_538,
  "vit_7_4_32": 3_716_874,
  "cvt_2_4_32": 214_539,
  "cvt_4_4_32": 412_939,
  "cvt_6_4_32": 3_190_283,
  "cvt_7_4_32": 3_716_619,
  "cct_2_3x2_32": 283_723,
  "cct_4_3x2_32": 482_123,
  "cct_6_3x1_32": 3_233_803,
  "cct_6_3x2_32": 3_326_923,
  "cct_7_3x1_32": 3_760_139,
  "cct_7_3x1_32_c100": 3_783_269,
  "cct_7_3x2_32": 3_853_259,
  "cct_7_7x2_224": 4_573_735,
  "cct_14_7x2_224": 22_367_273,
  "cct_14_7x2_384": 22_513_193,
  "cct_14_7x2_384_fl": 22_167_463,
}
SINE = {"vit_2_4_32": 206_346, "vit_4_4_32": 404_746, "vit_6_4_32": 3_173_898, "vit_7_4_32": 3_700_234}


def preset_shapes(name):
  variant = presets.COMPACT[name]
  return shapes(presets.model(name), (variant.image_size, variant.image_size, 3), variant.num_classes)


@pytest.mark.parametrize("name", NUM_PARAMS)
def test_published_parameter_counts(name):
  tree = preset_shapes(name)
  assert count(tree) == NUM_PARAMS[name]
  fixed = name.replace("_c100", "") + "_sine" + ("_c100" if "_c100" in name else "")
  if fixed in presets.COMPACT:
    trained = NUM_PARAMS[name] - tree["position_embedding"]["table"].size
    assert count(preset_shapes(fixed)) == SINE.get(name, trained) == trained


def test_every_preset_is_counted():
  assert {name for name in presets.COMPACT if "_sine" not in name} == NUM_PARAMS.keys()
  assert len(presets.COMPACT) == 2 * len(NUM_PARAMS) - 3  # 14 layers: learned positions only
  with pytest.raises(UserError, match="Did you mean 'cct_7_3x1_32'"):
    presets.model("cct_7_3x1_23")


def test_a_preset_can_be_changed_without_changing_the_next():
  presets.model("cct_2_3x2_32")["attention"]["num_heads"] = 99
  assert presets.model("cct_2_3x2_32")["attention"]["num_heads"] == 2


@pytest.mark.parametrize("pooling", ["sequence", "cls", "mean"])
@pytest.mark.parametrize("position_embedding", ["learned", "sincos", "none"])
@pytest.mark.parametrize("tokenizer", ["convolution", "patches"])
def test_options_add_what_they_say(pooling, position_embedding, tokenizer):
  changed = dict(pooling=pooling, position_embedding=position_embedding, tokenizer=tokenizer)
  tree = shapes(SMALL | changed, image=(12, 20, 3))
  tokens = 3 * 5 + (pooling == "cls")
  cut = {"convolution": 9 * (3 * 6 + 6 * 8), "patches": 16 * 3 * 8 + 8}[tokenizer]
  block = 4 * 64 + 2 * 16 + 2 * 8 * 12 + 12 + 8
  pool = {"sequence": 9, "cls": 8, "mean": 0}[pooling]
  positions = tokens * 8 * (position_embedding == "learned")
  assert count(tree) == cut + positions + 2 * block + 16 + pool + 8 * 10 + 10


@pytest.mark.parametrize(
  "attention", [dict(name="convnn", num_neighbors=3), dict(name="sot")], ids=lambda s: s["name"]
)
def test_takes_any_attention(attention):
  attention = attention | dict(num_heads=2)
  model = make_model(
    SMALL | dict(attention=attention, pooling="cls", depth=1), num_classes=10, dtype=jnp.bfloat16
  )
  x = jax.random.normal(jax.random.key(0), (2, 12, 20, 3))
  variables = fast_jit(lambda k: model.init(k, x, train=False))(jax.random.key(0))
  rngs = dict.fromkeys(("dropout", "drop_path"), jax.random.key(1))
  logits, sown = fast_jit(lambda v: model.apply(v, x, train=True, rngs=rngs, mutable=["intermediates"]))(
    variables
  )
  assert logits.shape == (2, 10)
  assert logits.dtype == jnp.float32
  assert np.isfinite(logits).all()
  (weights,) = sown["intermediates"]["block_0"]["attention"]["attention_weights"]
  assert weights.shape == (2, 2, 16, 16)


@functools.cache
def block():
  x = jax.random.normal(jax.random.key(3), (4, 5, 8))
  module = CompactBlock(SOFTMAX | dict(dropout_rate=0.0), mlp_dim=12, drop_path_rate=0.5)
  return module, fast_jit(lambda k: module.init(k, x, train=False))(jax.random.key(0)), x


def test_the_second_norm_lies_on_the_residual_stream():
  """Without its branches the block still normalises the tokens."""
  module, variables, x = block()
  zero = lambda path, leaf: jnp.zeros_like(leaf) if path[-2].key == "out" else leaf
  silent = jax.tree_util.tree_map_with_path(zero, variables)
  mean, std = np.mean(x, -1, keepdims=True), np.std(x, -1, keepdims=True)
  out = fast_jit(lambda v: module.apply(v, x, train=False))(silent)
  np.testing.assert_allclose(out, (x - mean) / std, atol=1e-4)


def test_both_branches_are_dropped_by_themselves():
  module, variables, x = block()
  rngs = lambda key: dict.fromkeys(("dropout", "drop_path"), key)
  run = fast_jit(lambda key: module.apply(variables, x, train=True, rngs=rngs(key)))
  outcomes = np.stack([run(jax.random.key(seed)) for seed in range(30)])
  # Four ways through the block for an example: each branch kept or not.
  for example in range(len(x)):
    assert len(np.unique(outcomes[:, example].round(4), axis=0)) == 4
  ways = [
    tuple(np.unique(outcomes[:, e].round(4), axis=0, return_inverse=True)[1].ravel()) for e in range(len(x))
  ]
  assert len(set(ways)) == len(x)  # each example for itself


def test_sequence_pooling_is_a_weighted_mean():
  x = jax.random.normal(jax.random.key(2), (2, 5, 8))
  module = SequencePooling()
  variables = jax.tree.map(lambda leaf: 30 * leaf, module.init(jax.random.key(0), x))
  pooled, sown = module.apply(variables, x, mutable=["intermediates"])
  score = np.asarray(x) @ np.asarray(variables["params"]["score"]["kernel"])[:, 0]
  weights = np.exp(score) / np.exp(score).sum(1, keepdims=True)
  np.testing.assert_allclose(sown["intermediates"]["pooling_weights"][0], weights, rtol=1e-5)
  np.testing.assert_allclose(pooled, np.einsum("bn,bnc->bc", weights, x), rtol=1e-4, atol=1e-6)


def test_initial_parameters_have_the_published_distribution():
  model = make_model(presets.model("cct_2_3x2_32"), num_classes=10)
  init = fast_jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
  params = init(jax.random.key(0))["params"]
  std = lambda leaf: float(np.std(leaf))
  block = params["block_1"]
  for kernel in (
    block["attention"]["query"],
    block["attention"]["out"],
    block["mlp"]["hidden_layer"],
    params["head"],
  ):
    np.testing.assert_allclose(std(kernel["kernel"]), 0.02, rtol=0.1)
  for bias in (block["attention"]["out"], block["mlp"]["out"], params["head"], params["pooling"]["score"]):
    assert not np.any(bias["bias"])
  np.testing.assert_allclose(std(params["position_embedding"]["table"]), 0.2, rtol=0.1)
  np.testing.assert_allclose(
    std(params["tokens"]["convolution_1"]["kernel"]), (2 / (9 * 64)) ** 0.5, rtol=0.1
  )


@pytest.mark.parametrize(
  ("fields", "image", "expected"),
  [
    (dict(num_stages=2), (32, 32), (8, 8)),
    (dict(num_stages=1), (17, 10), (9, 5)),
    (dict(kernel_size=7, stride=2, padding=3, num_stages=2), (224, 200), (14, 13)),
    (dict(kernel_size=4, stride=4, padding=0, pool="none"), (18, 9), (4, 2)),
  ],
)
def test_sides_of_the_feature_map(fields, image, expected):
  """(side + 2 padding - kernel) // stride + 1, then (side - 1) // 2 + 1 for the pooling."""
  tokens = ConvTokenizer(width=5, **fields)
  out = jax.eval_shape(lambda k: tokens.init_with_output(k, jnp.zeros((1, *image, 1)))[0], jax.random.key(0))
  assert out.shape == (1, *expected, 5)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(tokenizer="patches", patch_size=5), "patch_size=5 must divide the image of 16 x 16"),
    (dict(pooling="seq"), "Unknown pooling 'seq'"),
    (dict(tokenizer="patch"), "Did you mean 'patches'"),
    (dict(position_embedding="sine"), "Did you mean 'sincos'"),
    (dict(depth=0), "model.depth=0 must be at least 1"),
    (dict(attention=None), "must name an attention"),
    (dict(num_convolutions=0), "num_stages=0 of the tokenizer must be at least 1"),
    (
      dict(kernel_size=9, padding=0),
      "kernel_size=9 of the tokenizer does not fit the 2 x 2 pixels at stage 1",
    ),
    (dict(drop_path_rate=1.0), r"drop_path_rate=1.0 must lie in \[0, 1\)"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    shapes(SMALL | change, image=(16, 16, 3))

"""The ViT: parameter counts, options, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import sincos_table
from convnn_jax.models import make_model

SMALL = dict(name="vit", patch_size=4, width=24, depth=2, mlp_dim=48, attention=dict(name="softmax"))


def shapes(spec, image=(224, 224, 3), num_classes=10):
  model = make_model(spec, num_classes=num_classes)
  return jax.eval_shape(lambda k: model.init(k, jnp.zeros((1, *image)), train=False), jax.random.key(0))


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))


@pytest.mark.parametrize(
  ("attention", "expected"),
  [
    (dict(name="softmax"), 5_479_306),
    (dict(name="softmax", qkv_bias=True, out_bias=True), 5_488_522),
    (dict(name="convnn"), 5_500_042),
    (dict(name="convnn", convolution="standard"), 9_460_618),
    (dict(name="convnn", convolution="depthwise_separable"), 5_942_410),
    (dict(name="convnn", num_heads=3), 5_486_218),
    (dict(name="convnn", num_heads=3, convolution="standard"), 5_921_674),
    (dict(name="convnn", num_heads=3, convolution="depthwise_separable"), 5_535_370),
    (dict(name="convnn", num_neighbors=1), 5_481_610),
    (dict(name="convnn", num_neighbors=49, convolution="standard"), 27_155_338),
    (dict(name="convnn", convolution="standard", coordinate_encoding=True), 9_481_354),
    (dict(name="convnn", convolution="depthwise_separable", coordinate_encoding=True), 5_944_822),
  ],
)
def test_published_parameter_counts(attention, expected):
  assert count(shapes(dict(name="vit", attention=attention))) == expected


def test_one_hundred_classes_add_17370_parameters():
  spec = dict(name="vit", attention=dict(name="convnn"))
  assert count(shapes(spec, num_classes=100)) - count(shapes(spec)) == 17_370


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("position_embedding", ["sincos", "learned", "none"])
@pytest.mark.parametrize("final_norm", ["none", "layer_norm"])
def test_options_add_what_they_say(pooling, position_embedding, final_norm):
  spec = SMALL | dict(pooling=pooling, position_embedding=position_embedding, final_norm=final_norm)
  tree = shapes(spec, image=(8, 12, 3))
  tokens = 6 + (pooling == "cls")
  plain = count(shapes(SMALL | dict(pooling="mean"), image=(8, 12, 3)))
  extra = (
    24 * (pooling == "cls") + tokens * 24 * (position_embedding == "learned") + 48 * (final_norm != "none")
  )
  assert count(tree) == plain + extra


def test_logits_are_float32_at_any_compute_dtype():
  model = make_model(SMALL, num_classes=10, dtype=jnp.bfloat16)
  x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
  variables = jax.jit(lambda k: model.init(k, x, train=False))(jax.random.key(0))
  logits = jax.jit(lambda v: model.apply(v, x, train=False))(variables)
  assert logits.dtype == jnp.float32
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))


def test_sincos_table_matches_its_formula():
  table = sincos_table(7, 6)
  for t in range(7):
    for i in range(3):
      w = 10000 ** (-2 * i / 6)
      np.testing.assert_allclose(table[t, 2 * i], np.sin(t * w), atol=1e-6)
      np.testing.assert_allclose(table[t, 2 * i + 1], np.cos(t * w), atol=1e-6)


def test_initial_parameters_have_the_published_distribution():
  model = make_model(dict(name="vit", depth=1, attention=dict(name="convnn")), num_classes=10)
  init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 224, 224, 3)), train=False))
  params = init(jax.random.key(0))["params"]

  def uniform(x, fan_in):
    bound = fan_in**-0.5
    assert np.abs(x).max() <= bound
    assert np.abs(x).max() > 0.9 * bound
    np.testing.assert_allclose(np.std(x), bound / 3**0.5, rtol=0.15)

  uniform(params["patch_embedding"]["projection"]["kernel"], 768)
  uniform(params["patch_embedding"]["projection"]["bias"], 768)
  uniform(params["block_0"]["attention"]["query"]["kernel"], 192)
  uniform(params["block_0"]["attention"]["out"]["kernel"], 192)
  uniform(params["block_0"]["mlp"]["hidden_layer"]["bias"], 192)
  uniform(params["block_0"]["mlp"]["out"]["kernel"], 768)
  uniform(params["head"]["kernel"], 192)
  np.testing.assert_array_equal(params["block_0"]["attention"]["convolution"]["kernel"], 1.0)
  np.testing.assert_allclose(np.std(params["class_token"]), 1.0, rtol=0.2)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(patch_size=5), "patch_size=5 must divide the image of 16 x 16"),
    (dict(pooling="max"), "Unknown pooling 'max'"),
    (dict(final_norm="batch"), "Unknown final_norm 'batch'"),
    (dict(position_embedding="sincon"), "Did you mean 'sincos'"),
    (dict(depth=0), "model.depth=0 must be at least 1"),
    (dict(attention=None), "must name an attention"),
    (dict(attention=dict(name="convnn", num_neighbors=18)), r"num_neighbors=18 must lie in \[1, 17\]"),
    (dict(widht=3), "Did you mean 'width'"),
    (dict(name="vitt"), "Did you mean 'vit'"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    shapes(SMALL | change, image=(16, 16, 3))

"""Checkpoints of compact transformers: published names, positions, heads, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.convert.cct_checkpoint import read_cct, write_cct
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import resize_positions, sincos_table
from convnn_jax.models import make_model, presets, transfer

HEADS = "the file does not tell the number of heads; the config has 2"
SMALL = dict(width=8, mlp_dim=12, depth=2)
CCT = presets.model("cct_2_3x2_32") | SMALL
LITE = presets.model("vit_2_4_32") | SMALL

# What a published file of CCT has, written down by hand: outside the blocks, and in block 1.
OUTSIDE = (
  "tokenizer.conv_layers.0.0.weight tokenizer.conv_layers.1.0.weight classifier.positional_emb"
  " classifier.attention_pool.weight classifier.attention_pool.bias classifier.norm.weight classifier.norm.bias"
  " classifier.fc.weight classifier.fc.bias"
)
BLOCK = (
  "pre_norm.weight pre_norm.bias self_attn.qkv.weight self_attn.proj.weight self_attn.proj.bias norm1.weight"
  " norm1.bias linear1.weight linear1.bias linear2.weight linear2.bias"
)


def shapes(spec, side=16, classes=3):
  model = make_model(spec, num_classes=classes)
  init = lambda k: model.init(k, jnp.zeros((1, side, side, 3)), train=False)
  return jax.eval_shape(init, jax.random.key(0))["params"]


def random_like(tree):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)


def test_published_names():
  names = {f"classifier.blocks.{layer}.{name}" for layer in (0, 1) for name in BLOCK.split()}
  state = write_cct(random_like(shapes(CCT)), CCT, (16, 16))
  assert state.keys() == {*OUTSIDE.split(), *names}
  assert state["tokenizer.conv_layers.1.0.weight"].shape == (8, 64, 3, 3)
  assert state["classifier.blocks.0.self_attn.qkv.weight"].shape == (24, 8)
  lite = write_cct(random_like(shapes(LITE)), LITE, (16, 16))
  assert {"classifier.class_emb", "tokenizer.conv_layers.0.0.bias"} <= lite.keys()


@pytest.mark.parametrize(
  "spec", [CCT, LITE, CCT | dict(position_embedding="sincos")], ids=["cct", "lite", "sine"]
)
def test_there_and_back(spec):
  params = random_like(shapes(spec))
  state = write_cct(params, spec, (16, 16))
  assert "classifier.positional_emb" in state
  read, lines = read_cct(state, spec, (16, 16), shapes(spec))
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert lines == [f"read {len(state)} arrays in the names of published code", HEADS]


@pytest.mark.parametrize(
  ("spec", "prefix", "grids"), [(CCT, 0, (4, 6)), (LITE, 1, (4, 6))], ids=["cct", "lite"]
)
def test_positions_and_head_follow_the_model(spec, prefix, grids):
  params = random_like(shapes(spec))
  read, lines = read_cct(write_cct(params, spec, (16, 16)), spec, (24, 24), shapes(spec, side=24, classes=5))
  old, new = params["position_embedding"]["table"], read["position_embedding"]["table"]
  np.testing.assert_allclose(new, resize_positions(old, (grids[0],) * 2, (grids[1],) * 2, prefix), atol=1e-6)
  assert not np.any(read["head"]["kernel"])
  assert lines[1:] == [
    HEADS,
    "head: 3 classes there, 5 here; it starts from zero",
    "position_embedding/table: resized from 4 x 4 to 6 x 6 (bilinear)",
  ]


@pytest.mark.parametrize(
  "name", ["cct_7_3x1_32", "cct_7_3x2_32", "cct_14_7x2_224", "cvt_7_4_32", "vit_7_4_32"]
)
@pytest.mark.parametrize("side", [32, 48])
def test_the_grid_is_that_of_the_tokens(name, side):
  spec = presets.model(name) | dict(width=8, depth=1, mlp_dim=8)
  spec["attention"]["num_heads"] = 2
  complete = {**dict(stride=0, padding=-1), **spec}
  rows, columns = transfer.token_grid(complete, (side, side))
  assert rows == columns
  table = shapes(spec, side)["position_embedding"]["table"]
  assert table.shape[0] == rows * columns + transfer.num_prefix(complete)


def test_mistakes_are_named():
  params = random_like(shapes(CCT))
  state = write_cct(params, CCT, (16, 16))
  read = lambda spec, state=state: read_cct(state, spec, (16, 16), shapes(spec))
  with pytest.raises(UserError, match="needs --config.model.num_convolutions=2 --config.model.depth=2"):
    read(CCT | dict(depth=1, num_convolutions=1))
  with pytest.raises(UserError, match="needs --config.model.tokenizer=convolution"):
    read(LITE)
  with pytest.raises(UserError, match="give --config.model.position_embedding=learned"):
    read(CCT | dict(position_embedding="sincos"))
  no_block = {name: a for name, a in state.items() if "0.self_attn.qkv" not in name}
  for without, message in (
    (no_block, "block_0/attention/query/kernel"),
    ({name: a for name, a in state.items() if "attention_pool" not in name}, "source: pooling/score/bias"),
    (state | {"tokenizer.conv_layers.1.0.weight": np.zeros(8)}, r"shape \(8,\), but a kernel .* four axes"),
    (
      state | {"classifier.blocks.0.linear1.weight": np.zeros(())},
      "of wrong shape: classifier.blocks.0.linear1",
    ),
  ):
    with pytest.raises(UserError, match=message):
      read(CCT, without)
  with pytest.raises(UserError, match="not the names of a CCT"):
    read(CCT, {"x": np.zeros(1)})
  with pytest.raises(UserError, match="not known here: classifier.extra"):
    read(CCT, state | {"classifier.extra": np.zeros(1)})


def test_fixed_positions_of_another_grid_are_computed_anew():
  spec = CCT | dict(position_embedding="sincos")
  state = write_cct(random_like(shapes(spec)), spec, (16, 16))
  np.testing.assert_array_equal(state["classifier.positional_emb"][0], sincos_table(16, 8))
  _, lines = read_cct(state, spec, (24, 24), shapes(spec, side=24))
  assert lines[1:] == [HEADS]


def test_an_attention_that_its_code_does_not_have_is_not_written():
  """Its parameters may have the same names."""
  params = random_like(shapes(CCT))
  transport = CCT | dict(attention=dict(name="sot", num_heads=2))
  assert write_cct(params, transport, (16, 16)).keys() == write_cct(params, CCT, (16, 16)).keys()
  with pytest.raises(
    UserError, match="do not hold a model with model.attention.name=knn: .*name=softmax or sot"
  ):
    write_cct(params, CCT | dict(attention=dict(name="knn", num_heads=2)), (16, 16))

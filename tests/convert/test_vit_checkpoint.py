"""ViT checkpoints: the names of every source, layouts, resizing, heads, mistakes."""

import jax
import numpy as np
import pytest
from vit_cases import HEADS, SPEC, random_like, shapes

from convnn_jax.convert.read import read_state, write_safetensors
from convnn_jax.convert.vit_checkpoint import read_vit, write_vit
from convnn_jax.errors import UserError
from convnn_jax.ops.resize import resize_table

# Names of the parameters outside the blocks, and of block 1; what the published files have, written down by hand.
NAMES = {
  "timm": (
    "cls_token pos_embed patch_embed.proj.weight patch_embed.proj.bias norm.weight norm.bias head.weight head.bias",
    "blocks.1.",
    "norm1.weight norm1.bias norm2.weight norm2.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias"
    " mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias",
  ),
  "huggingface": (
    "vit.embeddings.cls_token vit.embeddings.position_embeddings vit.embeddings.patch_embeddings.projection.weight"
    " vit.embeddings.patch_embeddings.projection.bias vit.layernorm.weight vit.layernorm.bias classifier.weight"
    " classifier.bias",
    "vit.encoder.layer.1.",
    "layernorm_before.weight layernorm_before.bias layernorm_after.weight layernorm_after.bias"
    " attention.attention.query.weight attention.attention.query.bias attention.attention.key.weight"
    " attention.attention.key.bias attention.attention.value.weight attention.attention.value.bias"
    " attention.output.dense.weight attention.output.dense.bias intermediate.dense.weight intermediate.dense.bias"
    " output.dense.weight output.dense.bias",
  ),
  "google": (
    "cls Transformer/posembed_input/pos_embedding embedding/kernel embedding/bias Transformer/encoder_norm/scale"
    " Transformer/encoder_norm/bias head/kernel head/bias",
    "Transformer/encoderblock_1/",
    "LayerNorm_0/scale LayerNorm_0/bias LayerNorm_2/scale LayerNorm_2/bias"
    " MultiHeadDotProductAttention_1/query/kernel MultiHeadDotProductAttention_1/query/bias"
    " MultiHeadDotProductAttention_1/key/kernel MultiHeadDotProductAttention_1/key/bias"
    " MultiHeadDotProductAttention_1/value/kernel MultiHeadDotProductAttention_1/value/bias"
    " MultiHeadDotProductAttention_1/out/kernel MultiHeadDotProductAttention_1/out/bias"
    " MlpBlock_3/Dense_0/kernel MlpBlock_3/Dense_0/bias MlpBlock_3/Dense_1/kernel MlpBlock_3/Dense_1/bias",
  ),
}
TORCH = ("timm", "huggingface")
_RENUMBERED = ("LayerNorm_2", "LayerNorm_1"), ("Attention_1", "Attention_0"), ("MlpBlock_3", "MlpBlock_0")


def expected_names(source):
  outside, block, inside = NAMES[source]
  blocks = [f"{block.replace('1', layer)}{name}" for layer in "01" for name in inside.split()]
  return {*outside.split(), *blocks}


def renumbered(names):
  for old, new in _RENUMBERED:
    names = {name.replace(old, new) for name in names}
  return names


@pytest.fixture(scope="module")
def params():
  return random_like(shapes())


def test_every_source_has_its_published_names(params):
  for source in NAMES:
    assert write_vit(params, SPEC, source).keys() == expected_names(source), source
  today = renumbered(expected_names("google"))
  assert write_vit(params, SPEC, "google_linen").keys() == today
  positions = {"Transformer/posembed_input/pos_embedding"}
  assert write_vit(params, SPEC, "big_vision").keys() == today - positions | {"pos_embedding"}


@pytest.mark.parametrize("source", ["timm", "huggingface", "google", "google_linen"])
def test_there_and_back_through_a_file(source, params, tmp_path):
  state = write_vit(params, SPEC, source)
  if source.startswith("google"):
    file = tmp_path / "vit.npz"
    np.savez(file, **{f"opt/target/{name}": array for name, array in state.items()})
  else:
    file = tmp_path / "vit.safetensors"
    write_safetensors(file, state)
  read, lines = read_vit(read_state(str(file)), SPEC, (8, 8), shapes())
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert lines[0] == f"read {len(state)} arrays in the names of {source} code"
  other_habits = source != "timm"  # another GELU or another epsilon
  assert (len(lines), HEADS in lines) == (1 + other_habits + (source in TORCH), source in TORCH)


def test_layouts_are_those_of_torch(params):
  """A row of a torch matrix is an output; outputs of qkv are counted by part, head and channel."""
  state = write_vit(params, SPEC, "timm")
  block = params["block_1"]
  row = 2 * 8 + 1 * 4 + 3  # value, head 1, channel 3
  np.testing.assert_array_equal(
    state["blocks.1.attn.qkv.weight"][row], block["attention"]["value"]["kernel"][:, 1, 3]
  )
  assert state["blocks.1.attn.qkv.bias"][row] == block["attention"]["value"]["bias"][1, 3]
  column = 1 * 4 + 3
  np.testing.assert_array_equal(
    state["blocks.1.attn.proj.weight"][:, column], block["attention"]["out"]["kernel"][1, 3]
  )
  np.testing.assert_array_equal(
    state["patch_embed.proj.weight"][5, 2, 1, 3],
    params["patch_embedding"]["projection"]["kernel"][1, 3, 2, 5],
  )
  assert state["pos_embed"].shape == (1, 5, 8)
  np.testing.assert_array_equal(
    state["blocks.0.mlp.fc1.weight"], params["block_0"]["mlp"]["hidden_layer"]["kernel"].T
  )


def test_big_vision_adds_positions_before_the_class_token(params):
  """Its table has no row for it; stacked blocks and older prefixes are read, too."""
  written = write_vit(params, SPEC, "big_vision")
  table = params["position_embedding"]["table"]
  np.testing.assert_array_equal(written["pos_embedding"][0], table[1:])
  read, lines = read_vit(written, SPEC | dict(activation="gelu_tanh"), (8, 8), shapes())
  assert lines == [f"read {len(written)} arrays in the names of big_vision code"]
  np.testing.assert_array_equal(
    read["class_token"] + read["position_embedding"]["table"][:1], params["class_token"] + table[:1]
  )
  np.testing.assert_array_equal(read["position_embedding"]["table"][0], 0)
  np.testing.assert_array_equal(read["position_embedding"]["table"][1:], table[1:])
  block = "Transformer/encoderblock"
  stacked = {name: a for name, a in written.items() if not name.startswith(block)}
  for name in [name for name in written if name.startswith(f"{block}_0/")]:
    layers = [written[name.replace("_0/", f"_{layer}/", 1)] for layer in (0, 1)]
    stacked[name.replace(f"{block}_0", block)] = np.stack(layers)
  stacked = {f"params/img/{name}": array for name, array in stacked.items()} | {"params/t": np.zeros(1)}
  again, _ = read_vit(stacked, SPEC, (8, 8), shapes())
  jax.tree.map(np.testing.assert_array_equal, again, read)


def test_names_that_newer_hugging_face_models_have_in_memory(params):
  state = {}
  for name, array in write_vit(params, SPEC, "huggingface").items():
    for old, new in {
      "encoder.layer.": "layers.",
      "attention.attention.query": "attention.q_proj",
      "attention.attention.key": "attention.k_proj",
      "attention.attention.value": "attention.v_proj",
      "attention.output.dense": "attention.o_proj",
      "intermediate.dense": "mlp.fc1",
      "output.dense": "mlp.fc2",
    }.items():
      name = name.replace(old, new)
    state[name.removeprefix("vit.")] = array  # without prefix, as in files of the bare model
  state |= {"pooler.dense.weight": np.zeros((8, 8)), "pooler.dense.bias": np.zeros(8)}
  read, lines = read_vit(state, SPEC, (8, 8), shapes())
  jax.tree.map(np.testing.assert_array_equal, read, params)
  assert "left out, as the model has no place for it: pooler.dense.bias, pooler.dense.weight" in lines


def test_positions_and_head_follow_the_model(params):
  read, lines = read_vit(write_vit(params, SPEC), SPEC, (12, 12), shapes(side=12, classes=5))
  old, new = params["position_embedding"]["table"], read["position_embedding"]["table"]
  np.testing.assert_array_equal(new[0], old[0])  # the class token's
  np.testing.assert_allclose(new[1:], resize_table(old[1:], (2, 2), (3, 3)), atol=1e-6)
  assert not np.any(read["head"]["kernel"])
  assert lines[1:] == [
    HEADS,
    "head: 3 classes there, 5 here; it starts from zero",
    "position_embedding/table: resized from 2 x 2 to 3 x 3 (bicubic)",
  ]
  np.testing.assert_array_equal(read["block_1"]["norm1"]["scale"], params["block_1"]["norm1"]["scale"])


def test_a_head_on_a_layer_that_is_not_here_is_not_taken(params):
  state = write_vit(params, SPEC, "google")
  state |= {"pre_logits/kernel": np.zeros((8, 8)), "pre_logits/bias": np.zeros(8)}
  read, lines = read_vit(state, SPEC, (8, 8), shapes())
  assert not np.any(read["head"]["kernel"])
  gone = "head/bias, head/kernel, pre_logits/bias, pre_logits/kernel"
  assert f"left out, as the model has no place for it: {gone}" in lines
  assert "head: none there, 3 here; it starts from zero" in lines


def test_a_mean_without_class_token():
  spec = SPEC | dict(pooling="mean", final_norm="after_pooling")
  params = random_like(shapes(spec))
  state = write_vit(params, spec, "timm")
  assert {"fc_norm.weight", "fc_norm.bias"} <= state.keys()
  jax.tree.map(np.testing.assert_array_equal, read_vit(state, spec, (8, 8), shapes(spec))[0], params)
  with pytest.raises(
    UserError, match="config needs --config.model.pooling=mean --config.model.final_norm=after_po"
  ):
    read_vit(state, SPEC, (8, 8), shapes())
  with pytest.raises(UserError, match=r"does not have \(fc_norm.weight\)"):
    read_vit(state | {"cls_token": np.zeros((1, 1, 8))}, SPEC, (8, 8), shapes())


def test_mistakes_are_named(params):
  state = write_vit(params, SPEC)
  read = lambda spec, state=state: read_vit(state, spec, (8, 8), shapes(spec))
  with pytest.raises(UserError, match="needs --config.model.width=8 --config.model.depth=2"):
    read(SPEC | dict(width=16, depth=3))
  narrow = SPEC | dict(attention=SPEC["attention"] | dict(num_heads=4))
  google = write_vit(params, SPEC, "google")
  with pytest.raises(UserError, match="needs --config.model.attention.num_heads=2"):
    read(narrow, google)
  with pytest.raises(UserError, match="needs --config.model.position_embedding=learned"):
    read(SPEC | dict(position_embedding="sincos"))
  with pytest.raises(UserError, match="not the names of a ViT .*: x, ..."):
    read(SPEC, {"x": np.zeros(1)})
  with pytest.raises(UserError, match="does not have .MAPHead_0/probe"):
    read(SPEC, write_vit(params, SPEC, "big_vision") | {"MAPHead_0/probe": np.zeros(1)})
  missing = {name: a for name, a in state.items() if "norm1.bias" not in name}
  both = r"not known here: extra \| without a source: block_0/norm1/bias \(8,\) and 1 like it"
  with pytest.raises(UserError, match=both):
    read(SPEC, missing | {"extra": np.zeros(1)})
  with pytest.raises(UserError, match="rows for 3 positions there, which is no square"):
    read(SPEC, state | {"pos_embed": np.zeros((1, 4, 8))})
  with pytest.raises(UserError, match="Did you mean 'timm'"):
    write_vit(params, SPEC, "tim")

"""ViT checkpoints that are damaged or of other models, and models that no checkpoint can hold."""

import numpy as np
import pytest
from vit_cases import SPEC, random_like, shapes

from convnn_jax.convert.vit_checkpoint import notes, read_vit, write_vit
from convnn_jax.errors import UserError


@pytest.fixture(scope="module")
def params():
  return random_like(shapes())


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(attention=dict(name="knn", num_heads=2)), "model.attention.name=knn: .* attention.name=softmax"),
    (dict(activation="relu"), "model.activation=relu: .* activation=gelu or gelu_tanh"),
    (dict(position_embedding="sincos"), "model.position_embedding=sincos: .* position_embedding=learned"),
    (dict(position_embedding="none"), "model.position_embedding=none"),
    (dict(num_positions=9), "model.num_positions=9: .* num_positions=0"),
    (dict(final_norm="none"), "model.final_norm=none: .* final_norm=layer_norm or after_pooling"),
  ],
)
def test_what_other_code_does_not_compute_is_not_written(changes, message, params):
  for source in ("timm", "huggingface", "google", "big_vision"):
    with pytest.raises(UserError, match=f"names of {source} code do not hold a model with {message}"):
      write_vit(params, SPEC | changes, source)


def test_what_a_file_does_not_tell_is_told_when_it_is_written():
  spec = dict(activation="gelu", norm_epsilon=1e-6)
  assert notes(spec, "timm") == []
  assert notes(spec, "big_vision") == [
    "big_vision code computes with model.activation=gelu_tanh, model.norm_epsilon=1e-06; the config has gelu, 1e-06:"
    " logits differ a little"
  ]


def _swin(prefix):
  return {
    f"{prefix}embeddings.patch_embeddings.projection.weight": 0,
    f"{prefix}encoder.layers.0.blocks.0.x": 0,
  }


@pytest.mark.parametrize(
  "state",
  [
    _swin("swin."),
    _swin(""),
    {"patch_embed.proj.weight": 0, "layers.0.blocks.0.norm1.weight": 0},
    {"embedding/kernel": 0},
  ],
)
def test_files_of_other_models_are_told_by_their_names(state):
  with pytest.raises(UserError, match="These are not the names of a ViT"):
    read_vit({name: np.zeros(1) for name in state}, SPEC, (8, 8), {})


def _without(state, *parts):
  return {name: a for name, a in state.items() if not any(part in name for part in parts)}


def test_damage_is_named_by_what_is_lost(params):
  state, google = write_vit(params, SPEC), write_vit(params, SPEC, "google")
  face = write_vit(params, SPEC, "huggingface")
  projection = "vit.embeddings.patch_embeddings.projection.weight"
  key = "vit.encoder.layer.1.attention.attention.key"
  for damaged, message in (
    (_without(state, "blocks.0.attn.qkv.bias"), "without a source: block_0/attention/key/bias"),
    (
      _without(google, "block_0/MultiHeadDotProductAttention_1/query/bias"),
      "source: block_0/attention/query/bias",
    ),
    (_without(state, "head.bias"), r"head/bias \(3,\) is not there"),
    (_without(state, "head.weight"), r"head/kernel \(8, 3\) is not there"),
    (_without(face, f"{key}.weight"), "not known here: blocks.1.attn.key.bias"),
    (_without(face, "layer.1.attention.attention.query.bias"), "not known here: blocks.1.attn.key.bias"),
    (face | {f"{key}.weight": np.zeros((4, 8))}, "not known here: .*blocks.1.attn.key.weight"),
    (
      face | {projection: np.zeros(8)},
      r"patch_embed.proj.weight has shape \(8,\), but a kernel .* four axes",
    ),
    (google | {"embedding/kernel": np.zeros((4, 4))}, r"embedding/kernel has shape \(4, 4\), but a kernel"),
    (state | {"blocks.0.mlp.fc1.bias": np.zeros(())}, "of wrong shape: blocks.0.mlp.fc1.bias"),
    (state | {"head.bias": np.zeros(())}, r"head/bias is \(\) there"),
  ):
    with pytest.raises(UserError, match=message):
      read_vit(damaged, SPEC, (8, 8), shapes())
  with pytest.raises(UserError, match="needs --config.model.attention.qkv_bias=False"):
    read_vit(_without(state, "attn.qkv.bias"), SPEC, (8, 8), shapes())

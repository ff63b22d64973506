"""Options of the comparison attentions in our words."""

import jax
import numpy as np
import pytest
from golden_case import module_of

from convnn_jax.convert.options import NotOffered
from convnn_jax.convert.rules import to_flax, to_source
from convnn_jax.convert.study import checkpoint_options
from convnn_jax.convert.zoo import PUBLISHED, conversion
from convnn_jax.errors import UserError

LOCAL = dict(module="LocalAttention", dim=24, heads=3, window_size=4)
CORE = dict(module="LocalAttention.core", window_size=4)
VIT = dict(module="ConvNNViT", num_heads=3, d_hidden=24, d_mlp=8, patch_size=4, num_layers=1, K=5)


def test_every_option_has_a_check():
  assert set().union(*PUBLISHED.modules.values()) == PUBLISHED.words.keys() | PUBLISHED.types.keys()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(module="KvtAtention"), "Did you mean 'KvtAttention'"),
    (dict(module="KvtAttention", topk=3), "needs the option num_heads"),
    (dict(module="KvtAttention", num_heads=3, top_k=3), "Did you mean 'topk'"),
    (dict(module="SparseAttention", num_heads=3, attn_mode="band"), "attn_mode: 'band'"),
    (dict(module="SparseAttention", num_heads=3, attn_mode="local"), "needs the option local_attn_ctx"),
    (dict(module="NeighborhoodAttention1D", num_heads=3), "needs the option kernel_size"),
    (LOCAL | dict(rotary_alignment="left"), "rotary_alignment: 'left'"),
    (LOCAL | dict(key_mask="somewhere"), "key_mask: 'somewhere'"),
    (LOCAL | dict(causal=1), "causal=1 must be true or false"),
    (VIT | dict(layer="ConvNNAttention"), "layer: 'ConvNNAttention'"),
  ],
)
def test_what_is_unknown_is_named(options, message):
  with pytest.raises(UserError, match=message):
    conversion(options)


def test_what_is_left_out_says_why():
  with pytest.raises(NotOffered, match="xPos lets scores fade"):
    conversion(LOCAL | dict(use_xpos=True))


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, dict(reach="exact", look_forward=1, quirks=("visible_padding", "shifted_rotary"), head_dim=64)),
    (dict(mask_padding=True, rotary_alignment="centered"), dict(quirks=())),
    (dict(key_mask="given in aux:key_mask"), dict(quirks=("shifted_rotary",))),
    (dict(causal=True), dict(causal=True, look_forward=0)),
    (dict(exact_windowsize=False), dict(reach="windows")),
    (dict(qk_rmsnorm=True, qk_scale=4), dict(qk_norm="l2", scale=4)),
    (dict(qk_scale=4), dict(qk_norm="none", scale=0.0)),  # the source reads it with qk_rmsnorm only
    (dict(qk_rmsnorm=True, shared_qk=True), dict(qk_norm="l2_key", scale=8.0)),
    (dict(shared_qk=True, gate=True, prenorm=True), dict(qk_norm="key", gate=True, prenorm=True)),
  ],
)
def test_local_attention(options, expected):
  spec = conversion(LOCAL | options).spec
  assert {field: spec[field] for field in expected} == expected


def test_the_core_of_local_attention_has_other_defaults():
  assert conversion(CORE).spec["reach"] == "windows"
  assert conversion(CORE | dict(dim=None)).spec["positions"] == "none"
  assert conversion(CORE | dict(dim=8)).spec["positions"] == "rotary"


def test_the_comparison_fixes_what_it_does_not_name():
  local = conversion(VIT | dict(layer="LocalAttention")).spec["attention"]
  assert (local["window_size"], local["head_dim"], local["reach"]) == (128, 64, "exact")
  sparse = conversion(VIT | dict(layer="SparseAttention")).spec["attention"]
  assert (sparse["pattern"], sparse["window"]) == ("all", 128)
  assert conversion(VIT | dict(layer="KvtAttention")).spec["attention"]["num_neighbors"] == 5


def test_only_a_single_head_as_wide_as_the_tokens_has_no_output_projection():
  projection = lambda **options: conversion(dict(module="vit.Attention", **options)).spec.get(
    "out_projection"
  )
  assert projection(dim=12, heads=1, dim_head=12) == "none"
  assert projection(dim=12, heads=2, dim_head=6) is None
  assert projection(dim=12, heads=1, dim_head=6) is None


VIT_TOWER = dict(
  module="vit.ViT", image_size=8, patch_size=4, dim=12, depth=2, heads=2, mlp_dim=8, num_classes=3
)
TRANSFORMER = dict(
  module="Transformer",
  num_encoder_layers=2,
  num_decoder_layers=1,
  dim_model=8,
  num_heads=6,
  dim_feedforward=4,
)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, dict(pooling="cls", num_positions=5, final_norm="layer_norm", patch_norm="both")),
    (dict(image_size=64), dict(num_positions=257)),  # the number of pixels for the side
    (dict(image_size=[8, 12], patch_size=[4, 6]), dict(num_positions=5)),
    (dict(pool="mean"), dict(pooling="mean_all")),
    (dict(pool="mean", cls_token=False), dict(pooling="mean", num_positions=4)),
    (dict(norm_in_head=True), dict(final_norm="after_pooling")),
    (dict(module="deepvit.DeepViT"), dict(final_norm="after_pooling")),
  ],
)
def test_vit_towers(options, expected):
  spec = conversion(VIT_TOWER | options).spec
  assert {field: spec[field] for field in expected} == expected


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (VIT_TOWER | dict(pool="max"), "pool: 'max'"),
    (VIT_TOWER | dict(image_size=[8, 8, 3]), "must be an integer or two integers"),
    (VIT_TOWER | dict(dropout="on"), "must be a number or 'off'"),
    (dict(module="CNN", conv_channels=[3]), "must be two integers"),
    (dict(module="CNN", output="softmax"), "output: 'softmax'"),
    (dict(module="Hybrid", num_classes=3), "needs the option image_pixels"),
    (TRANSFORMER | dict(positional="learned"), "positional: 'learned'"),
    (TRANSFORMER | dict(dim_feedforward=2.5), "must be an integer"),
    (
      dict(module="TransformerEncoder", dim_model=8, num_heads=2, dim_feedforward=4),
      "needs the option num_layers",
    ),
    (
      dict(module="MultiHeadAttention", num_heads=2, dim_in=8, dim_q=4, dim_k=3),
      "dim_q=4 and dim_k=3 must be equal",
    ),
    (dict(module="position_encoding", seq_len=3, dim_model=4, variant="sine"), "variant: 'sine'"),
    (dict(module="protocol", optimizer="SGD", lr=0.1, gamma=0.7), "optimizer: 'SGD'"),
    (dict(module="protocol", optimizer="Adam(b1=.9,b2=.999,eps=1e-8)", loss="mse"), "loss: 'mse'"),
  ],
)
def test_what_is_unknown_in_the_study_is_named(options, message):
  with pytest.raises(UserError, match=message):
    conversion(options)


def test_segmentation_is_left_out_and_says_why():
  with pytest.raises(NotOffered, match="models here classify images"):
    conversion(dict(module="segformer.Block"))


def test_heads_of_the_transformer_are_cut_to_whole_channels():
  assert conversion(TRANSFORMER).spec["attention"]["head_dim"] == 1
  assert conversion(TRANSFORMER | dict(dim_model=512)).spec["attention"]["head_dim"] == 85


# One case of every way in which a checkpoint of these modules can be written.
CHECKPOINTS = {
  "vit": VIT_TOWER,
  "vit of 2026": VIT_TOWER | dict(batch_axis=False),
  "vit of 2026, mean": VIT_TOWER | dict(batch_axis=False, cls_token=False, pool="mean"),
  "vit 1.0.0": VIT_TOWER | dict(norm_in_head=True),
  "deepvit, one head": VIT_TOWER | dict(module="deepvit.DeepViT", heads=1),
  "hybrid": dict(module="Hybrid", image_pixels=144, dim=8, depth=1, heads=2, mlp_dim=4, num_classes=3),
  "encoder": TRANSFORMER | dict(module="TransformerEncoder", num_layers=2),
  "decoder": TRANSFORMER | dict(module="TransformerDecoder", num_layers=2),
  "transformer": TRANSFORMER | dict(positional="standard"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_parameters_go_there_and_back(name):
  options = dict(CHECKPOINTS[name])
  if name in ("encoder", "decoder"):
    del options["num_encoder_layers"], options["num_decoder_layers"]
  made = conversion(options)
  side = 12 if name == "hybrid" else 8
  module, x = module_of(made, options), np.zeros((1, side, side, 1), np.float32)
  inputs = (
    [x] if made.kind == "model" else [np.zeros((1, 3, 8), np.float32)] * (1 if name == "encoder" else 2)
  )
  shapes = jax.eval_shape(lambda key: module.init(key, *inputs, train=False), jax.random.key(0))["params"]
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), shapes)
  there = to_source(params, made.rules)
  if made.kind == "model":
    told = checkpoint_options(there)
    assert told.items() >= {k: v for k, v in options.items() if k in told}.items()
    if "mean" in name:  # newer versions keep an empty array
      there["cls_token"] = np.zeros((0, 12))
      assert checkpoint_options(there) == told
    assert (told["batch_axis"], told["cls_token"]) == ("2026" not in name, "mean" not in name)
  back = to_flax(there, made.rules, shapes, ignore=made.ignore)
  jax.tree.map(np.testing.assert_array_equal, back, params)

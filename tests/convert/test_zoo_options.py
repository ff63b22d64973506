"""Options of the comparison attentions in our words."""

import pytest

from convnn_jax.convert.options import NotOffered
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
  with pytest.raises(NotOffered, match="normalised twice"):
    conversion(LOCAL | dict(qk_rmsnorm=True, shared_qk=True))


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

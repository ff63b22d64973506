"""Options of the published code in our words."""

import pytest

from convnn_jax.convert.convnn import conversion
from convnn_jax.convert.convnn_words import PUBLISHED
from convnn_jax.errors import UserError

FINAL = dict(module="MultiHeadConvNNAttention", d_hidden=24, num_heads=1, K=5)
FIRST = dict(module="hist:MultiHeadConvNNAttention", d_hidden=24, num_heads=1, K=5, magnitude_type="cosine")


def test_every_option_has_a_check():
  assert set().union(*PUBLISHED.modules.values()) == PUBLISHED.words.keys() | PUBLISHED.types.keys()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(module="MultiHeadConvNNAtention"), "Did you mean 'MultiHeadConvNNAttention'"),
    (dict(module="BranchingConv", num_heads=1), "needs the option K"),
    (
      dict(module="BranchingConv(hist)", num_heads=1, K=3, convnn=dict(temprature=1)),
      "Did you mean 'temperature'",
    ),
    (dict(module="BranchingAttention", num_heads=1, K=3, convnn=3), "must be options by name"),
    (dict(module="MultiHeadConv1dAttention", num_heads=1, bias=False), "bias=False is not known"),
    (FINAL | dict(samplingtype="all"), "Did you mean 'sampling_type'"),
    (FINAL | dict(sampling_type="grid"), "sampling_type: 'grid'"),
    (FINAL | dict(v_out=6), "'v_out'"),
    (FINAL | dict(K=2.5), "K=2.5 must be an integer"),
    (FINAL | dict(coordinate_encoding=1), "coordinate_encoding=1 must be true or false"),
    (FINAL | dict(sampling_type="random"), "needs the option num_samples"),
    (FINAL | dict(softmax_topk_val=False, weighting="softmax_topk"), "contradict"),
    (dict(module="ViT", layer="Attn", num_heads=3), "layer: 'Attn'"),
    (dict(module="ViT", layer="KvtAttention", num_heads=3), "needs the option K"),
    (dict(module="ViT", layer="Attention", img_size=[3, 32]), "three integers"),
  ],
)
def test_what_is_unknown_is_named(options, message):
  with pytest.raises(UserError, match=message):
    conversion(options)


def test_one_head_was_scrambled_in_the_first_versions_only():
  scramble = dict(head_merge="upstream_scramble")
  quirks = lambda options: conversion(options | scramble).spec["quirks"]
  assert "scrambled_heads" in quirks(FIRST)
  assert "scrambled_heads" not in quirks(FINAL)
  assert "scrambled_heads" in quirks(FINAL | dict(num_heads=3))
  assert "scrambled_heads" not in quirks(FIRST | dict(module="hist:MultiHeadConvNNAttention_Depthwise"))


def test_distances_of_the_first_versions():
  spec = conversion(FIRST | dict(magnitude_type="euclidean", self_fill=1.1)).spec
  assert spec["quirks"] == ("self_fill", "distance_weights")
  assert spec["self_fill_value"] == -0.1
  assert conversion(FINAL | dict(magnitude_type="euclidean")).spec["quirks"] == ()


def test_a_remark_in_parentheses_is_not_part_of_the_word():
  spec = conversion(FIRST | dict(similarity="matmul (magnitude_type flag ignored)")).spec
  assert spec["similarity"] == "dot"


def test_rows_come_from_w_k_in_convnn_only():
  target = lambda options: {r.source: r.target for r in conversion(options).rules}["W_k.weight"]
  assert target(FINAL) == "query/kernel"
  assert target(dict(module="MultiHeadAttention", d_hidden=24, num_heads=3)) == "key/kernel"


def test_unused_projections_are_declared():
  ignored = lambda projection: {name[:3] for name in conversion(FIRST | dict(projection=projection)).ignore}
  assert ignored("kqv") == set()
  assert ignored("kq") == {"W_v"}
  assert ignored("v") == {"W_q", "W_k"}
  assert ignored("none") == {"W_q", "W_k", "W_v"}
  assert conversion(FINAL).ignore == ()


@pytest.mark.parametrize("ratio", [0, 0.0, 1, 1.0])
def test_without_a_second_branch_the_published_mixing_layer_is_ignored(ratio):
  branching = dict(module="BranchingConv", num_heads=1, K=3, branch_ratio=ratio)
  made = conversion(branching)
  assert {"pointwise_linear.weight", "pointwise_linear.bias"} <= set(made.ignore)
  assert not any(rule.target.startswith("mix") for rule in made.rules)
  assert conversion(branching | dict(branch_ratio=0.5)).ignore == ()


def test_one_head_of_the_published_conv1d_is_scrambled():
  made = conversion(dict(module="BranchingConv", num_heads=1, K=3, head_merge="upstream_scramble"))
  assert made.spec["second"]["quirks"] == ("scrambled_heads",)
  assert made.spec["first"]["quirks"] == ()


def test_what_holds_for_one_branch_goes_before_a_flag_for_both():
  branching = FIRST | dict(module="BranchingAttention(hist)", softmax_topk_val=True)
  spec = conversion(branching | dict(convnn=dict(weighting="similarity"))).spec
  assert spec["first"]["weighting"] == "similarity"
  with pytest.raises(UserError, match="contradict"):
    conversion(branching | dict(weighting="similarity"))


@pytest.mark.parametrize("name", ["bias", "linear_bias", "attention_bias"])
def test_biases_of_softmax_attention_have_three_names(name):
  spec = conversion(dict(module="MultiHeadAttention", num_heads=3) | {name: True}).spec
  assert (spec["qkv_bias"], spec["out_bias"]) == (True, True)

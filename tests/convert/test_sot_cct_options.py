"""Options of self-optimal transport and the compact transformers in our words."""

import jax
import jax.numpy as jnp
import pytest

from convnn_jax.convert.rules import flat, to_flax, to_source
from convnn_jax.convert.sot_cct import PUBLISHED, conversion, transport
from convnn_jax.errors import UserError
from convnn_jax.models import make_model

ATTENTION = dict(module="sot_attention", dim=16, heads=2)
CCT = dict(module="cct", embedding_dim=16, num_layers=1, num_heads=2, mlp_ratio=2, num_classes=10)
TOKENIZER = dict(module="tokenizer", kernel_size=3, stride=1, padding=1)


def test_every_option_has_a_check():
  assert set().union(*PUBLISHED.modules.values()) == PUBLISHED.words.keys() | PUBLISHED.types.keys()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(module="sot_transformer"), "Did you mean 'sot_transform'"),
    (dict(module="sot_transform", regu=0.1), "Did you mean 'reg'"),
    (dict(module="sot_transform", metric="manhattan"), "metric: 'manhattan'"),
    (dict(module="sot_transform", iterations=1.5), "iterations=1.5 must be an integer"),
    (dict(module="sot_attention"), "needs the option heads"),
    (ATTENTION | dict(variant="sot_k"), "variant: 'sot_k'"),
    (ATTENTION | dict(sot=dict(link="log")), "link: 'log'"),
    (ATTENTION | dict(sot=0.1), "sot=0.1 must be options by name"),
    (CCT | dict(positional_embedding="rotary"), "positional_embedding: 'rotary'"),
    (CCT | dict(img_size="32"), "img_size='32' must be an integer or several"),
    (CCT | dict(patch_size=4), "option of the published module 'cct': 'patch_size'"),
    (CCT | dict(attention=dict(heads=3)), "heads=3, the module around it 2"),
    (CCT | dict(attention=dict(postt="none")), "Did you mean 'post'"),
    (TOKENIZER | dict(activation="tanh"), "activation: 'tanh'"),
    (dict(module="tokenizer", kernel_size=3), "needs the option stride"),
    (dict(module="lr_per_epoch", lr=1.0, warmup=5), "needs the option epochs"),
  ],
)
def test_what_is_unknown_is_named(options, message):
  with pytest.raises(UserError, match=message):
    conversion(options)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, dict(metric="euclidean", cost_scale="row_max", link="sigmoid", rescale="max", diagonal="masked")),
    (dict(grad_through_max=False), dict(rescale="constant_max")),
    (dict(max_scale=False, grad_through_max=False), dict(rescale="none")),
    (dict(mask_diag=False), dict(diagonal="kept")),
    (dict(stop_threshold=-1.0), {}),
    (dict(stop_threshold=0.1), dict(stop_threshold=0.1)),
    (dict(mask_value=50, diag_value=0, reg=1), dict(mask_value=50, diagonal_value=0, regularization=1)),
    (dict(cost_scale=None), dict(cost_scale="none")),
  ],
)
def test_transport(options, expected):
  fields = transport(options)
  assert {field: fields[field] for field in expected} == expected
  assert ("stop_threshold" in fields) == ("stop_threshold" in expected)


def test_what_has_no_effect_there_is_left_out_here():
  assert not {"mask_value", "diagonal_value"} & transport(dict(mask_diag=False, mask_value=50)).keys()


def test_attention_is_plain_unless_described():
  assert conversion(CCT).spec["attention"]["name"] == "softmax"
  assert conversion(CCT | dict(attention=None)).spec["attention"]["name"] == "softmax"
  spec = conversion(
    CCT | dict(attention=dict(variant="sot_qk", post="row_norm", scale=None, sot=dict(reg=0.8)))
  ).spec
  attention = spec["attention"]
  assert (attention["name"], attention["variant"], attention["normalization"]) == ("sot", "query_key", "rows")
  assert (attention["scale"], attention["regularization"], attention["num_heads"]) == (0.0, 0.8, 2)


@pytest.mark.parametrize(
  "options",
  [
    CCT | dict(n_conv_layers=2, attention=dict(variant="sot_q", post="none")),
    CCT | dict(n_conv_layers=1, kernel_size=7, positional_embedding="sine"),
    CCT | dict(module="cvt", kernel_size=4, positional_embedding="none"),
    CCT | dict(module="vit_lite", patch_size=4, n_input_channels=3),
  ],
  ids=["cct", "cct sine", "cvt", "vit_lite"],
)
def test_parameters_come_back_as_they_were(options):
  """A rectangular image; every parameter of ours has a name there, and the way back is the same."""
  made = conversion(options)
  model = make_model(made.spec, num_classes=10)
  init = lambda key: model.init(key, jnp.zeros((1, 16, 24, 3)), train=False)["params"]
  params = jax.tree.map(jnp.ones_like, jax.eval_shape(init, jax.random.key(0)))
  state = to_source(params, made.rules)
  assert state["classifier.blocks.0.self_attn.qkv.weight"].shape == (48, 16)
  assert ("classifier.class_emb" in state) == (options["module"] == "vit_lite")
  back = flat(to_flax(state, made.rules, params, ignore=made.ignore))
  assert {name: leaf.shape for name, leaf in back.items()} == {
    n: leaf.shape for n, leaf in flat(params).items()
  }
  if made.ignore:  # a fixed table lies in published checkpoints
    to_flax(
      state | {"classifier.positional_emb": jnp.zeros((1, 6, 16))}, made.rules, params, ignore=made.ignore
    )

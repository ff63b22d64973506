"""The engine that renames and re-lays parameters."""

import numpy as np
import pytest

from convnn_jax.convert.rules import LAYOUTS, Rule, flat, nested, to_flax, to_source
from convnn_jax.errors import UserError

RULES = (
  Rule("blocks.{layer}.w.weight", "block_{layer}/query/kernel", "split_linear"),
  Rule("blocks.{layer}.w.bias", "block_{layer}/query/bias", "split_bias"),
  Rule("out.weight", "out/kernel", "merge_linear"),
)


def _target():
  shapes = {"block_0/query/kernel": (4, 3, 2), "block_0/query/bias": (3, 2)}
  shapes |= {"block_11/query/kernel": (4, 3, 2), "block_11/query/bias": (3, 2), "out/kernel": (3, 2, 5)}
  return nested({path: np.zeros(shape, np.float32) for path, shape in shapes.items()})


def _state(rng):
  names = {"out.weight": (5, 6)}
  for layer in (0, 11):
    names |= {f"blocks.{layer}.w.weight": (6, 4), f"blocks.{layer}.w.bias": (6,)}
  return {name: rng.standard_normal(shape) for name, shape in names.items()}


def test_there_and_back():
  state = _state(np.random.default_rng(0))
  params = to_flax(state, RULES, _target())
  back = to_source(params, RULES)
  assert back.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(back[name], array)


def test_projections_keep_their_meaning():
  state = _state(np.random.default_rng(1))
  params = flat(to_flax(state, RULES, _target()))
  x = np.arange(4.0)
  into = np.einsum("c,chd->hd", x, params["block_11/query/kernel"]) + params["block_11/query/bias"]
  plain = state["blocks.11.w.weight"] @ x + state["blocks.11.w.bias"]
  np.testing.assert_allclose(into.reshape(-1), plain)  # head h owns channels h*d to (h+1)*d
  np.testing.assert_allclose(np.einsum("hd,hde->e", into, params["out/kernel"]), state["out.weight"] @ plain)


# Layout -> (source shape, our shape). A layout missing here fails below.
SHAPES = {
  "same": ((3, 4), (3, 4)),
  "linear": ((3, 4), (4, 3)),
  "split_linear": ((6, 4), (4, 3, 2)),
  "split_bias": ((6,), (3, 2)),
  "merge_linear": ((5, 6), (3, 2, 5)),
  "per_head": ((3, 1, 1), (3,)),
  "mixing_conv1d": ((6, 2, 1), (3, 2, 2)),
  "drop_batch_axis": ((1, 3, 4), (3, 4)),
  "conv2d": ((8, 3, 5, 7), (5, 7, 3, 8)),
  "conv1d": ((8, 6, 5), (5, 6, 8)),
  "depthwise_conv1d": ((6, 1, 5), (5, 6)),
  "pointwise_conv1d": ((8, 6, 1), (6, 8)),
  "map_linear": ((7, 2 * 3 * 4), (3, 4, 2, 7)),
  "add_batch_axis": ((1, 6), (1, 1, 6)),
}


def test_a_flat_feature_map_keeps_its_meaning():
  rng = np.random.default_rng(3)
  features, weight = rng.standard_normal((3, 4, 2)), rng.standard_normal((7, 2 * 3 * 4))  # [y x c]
  ours = to_flax({"w": weight}, [Rule("w", "w", "map_linear")], {"w": np.zeros((3, 4, 2, 7))})["w"]
  flat_by_channel = features.transpose(2, 0, 1).reshape(-1)
  np.testing.assert_allclose(np.einsum("yxc,yxcd->d", features, ours), weight @ flat_by_channel)


HEADS = (
  Rule("layers.{layer}.heads.{head}.q.weight", "layer_{layer}/query/kernel[1:{head}]", "linear"),
  Rule("layers.{layer}.heads.{head}.q.bias", "layer_{layer}/query/bias[0:{head}]"),
)


def _heads(num_heads):
  rng = np.random.default_rng(2)
  parts = {"weight": (2, 4), "bias": (2,)}
  return {
    f"layers.5.heads.{head}.q.{part}": rng.standard_normal(shape)
    for head in range(num_heads)
    for part, shape in parts.items()
  }


def test_layers_of_single_heads_become_one_kernel_and_back():
  target = nested({"layer_5/query/kernel": np.zeros((4, 12, 2)), "layer_5/query/bias": np.zeros((12, 2))})
  state = _heads(12)  # head 10 comes after head 9, not after head 1
  params = flat(to_flax(state, HEADS, target))
  for head in range(12):
    np.testing.assert_array_equal(
      params["layer_5/query/kernel"][:, head], state[f"layers.5.heads.{head}.q.weight"].T
    )
    np.testing.assert_array_equal(params["layer_5/query/bias"][head], state[f"layers.5.heads.{head}.q.bias"])
  back = to_source(nested(params), HEADS)
  assert back.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(back[name], array)


def test_missing_and_surplus_heads_are_listed():
  target = nested({"layer_5/query/kernel": np.zeros((4, 3, 2)), "layer_5/query/bias": np.zeros((3, 2))})
  with pytest.raises(UserError, match=r"without a source: .*kernel\[1:2\] \(4, 2\)"):
    to_flax(_heads(2), HEADS, target)
  with pytest.raises(UserError, match="not known here: layers.5.heads.3.q.bias"):
    to_flax(_heads(4), HEADS, target)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layouts_are_inverses(name):
  source, ours = SHAPES[name]
  array = np.random.default_rng(2).standard_normal(source)
  converted = LAYOUTS[name].to_flax(array, ours)
  assert converted.shape == ours
  np.testing.assert_array_equal(LAYOUTS[name].to_source(converted), array)


def test_report_lists_surplus_missing_and_wrong_shapes_together():
  state = _state(np.random.default_rng(3))
  state["head.weight"] = np.zeros((2, 2))
  state["blocks.12.w.bias"] = np.zeros(6)  # a rule fits, but there is no such block here
  del state["blocks.0.w.bias"]
  state["out.weight"] = np.zeros((5, 7))
  with pytest.raises(UserError) as error:
    to_flax(state, RULES, _target())
  message = str(error.value)
  assert "not known here: blocks.12.w.bias; head.weight" in message
  assert "without a source: block_0/query/bias (3, 2)" in message
  assert "of wrong shape: out.weight (5, 7) -> out/kernel (3, 2, 5)" in message


def test_only_named_constants_are_ignored():
  state = _state(np.random.default_rng(4)) | {"blocks.3.table": np.zeros(2)}
  to_flax(state, RULES, _target(), ignore=("blocks.{layer}.table",))
  with pytest.raises(UserError, match=r"blocks\.3\.table"):
    to_flax(state, RULES, _target(), ignore=("blocks.{layer}.tables",))


def test_a_grouped_convolution_is_not_read_as_a_depthwise_one():
  rules = (Rule("conv.weight", "kernel", "depthwise_conv1d"),)
  with pytest.raises(UserError, match=r"conv\.weight \(6, 2, 5\)"):
    to_flax({"conv.weight": np.zeros((6, 2, 5))}, rules, {"kernel": np.zeros((5, 6))})


def test_parameters_without_a_rule_are_reported_on_the_way_back():
  with pytest.raises(UserError, match="not known to the source: block_0/key/kernel"):
    to_source({"block_0": {"key": {"kernel": np.zeros((2, 2))}}}, RULES)


def test_parts_of_one_array_go_to_several_parameters_and_back():
  rules = tuple(
    Rule(f"b.{{i}}.kv.weight[{part}/2]", f"b_{{i}}/{name}", "linear") for part, name in enumerate("kv")
  )
  state = {"b.0.kv.weight": np.arange(24.0).reshape(6, 4), "b.1.kv.weight": np.ones((6, 4))}
  target = {f"b_{i}": {name: np.zeros((4, 3)) for name in "kv"} for i in range(2)}
  params = to_flax(state, rules, target)
  np.testing.assert_array_equal(params["b_0"]["v"], state["b.0.kv.weight"][3:].T)
  back = to_source(params, rules)
  assert back.keys() == state.keys()
  np.testing.assert_array_equal(back["b.0.kv.weight"], state["b.0.kv.weight"])
  with pytest.raises(UserError, match=r"not known here: b\.0\.kv\.weight.*without a source: b_0/k"):
    to_flax(state | {"b.0.kv.weight": np.zeros((5, 4))}, rules, target)

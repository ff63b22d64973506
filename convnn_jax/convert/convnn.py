"""Options and checkpoints of the published ConvNN code -> our specs and parameters.

Source: Kang et al., "Attention Via Convolutional Nearest Neighbors": the final code, and the experiment
versions before it (modules named `hist:`). In its ConvNN modules the rows of the similarity matrix come from
W_k and the candidates from W_q, so there W_k is our `query` and W_q our `key`.
"""

from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import layers
from convnn_jax.convert.convnn_words import PUBLISHED
from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule
from convnn_jax.errors import UserError


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Raises:
    UserError: unknown module, option or value.
  """
  PUBLISHED.check(options)
  module = options["module"]
  if module not in ("EncoderBlock", "ViT"):
    return attention(options, module)
  block = layers.encoder_block(options, attention(options, PUBLISHED.word(options, "layer")))
  return layers.vision_transformer(options, block) if module == "ViT" else block


def attention(options: Mapping[str, Any], module: str) -> Conversion:
  """The counterpart of an attention `module`; its options may be among those of the model around it."""
  if module.startswith("Branching"):
    return _branching(options, module)
  if module == "MultiHeadAttention":
    bias = any(options.get(name, False) for name in ("bias", "linear_bias", "attention_bias"))
    return _softmax(options, bias)
  if module == "MultiHeadConv1dAttention":
    return _conv1d(options)
  if module == "KvtAttention":
    return knn(options, num_neighbors=required(options, "K"))
  return _convnn(options, module)


def _softmax(options, bias) -> Conversion:
  spec = dict(name="softmax", num_heads=required(options, "num_heads"), qkv_bias=bias, out_bias=bias)
  return Conversion("attention", spec, layers.projections("W_q", "W_k", "W_v", "W_o"))


def knn(options: Mapping[str, Any], num_neighbors: int) -> Conversion:
  """The counterpart of KvtAttention."""
  spec = dict(
    name="knn",
    num_heads=required(options, "num_heads"),
    num_neighbors=num_neighbors,
    scale=options.get("qk_scale") or 0.0,
    qkv_bias=options.get("qkv_bias", False),
    out_bias=options.get("proj_bias", False),
  )
  return Conversion("attention", spec, layers.fused_projections("qkv", "proj"))


def _conv1d(options) -> Conversion:
  if not options.get("bias", True):
    raise UserError(
      "The published option bias=False is not known for 'MultiHeadConv1dAttention'; leave it out."
    )
  scrambled = PUBLISHED.word(options, "head_merge", "correct") == "scramble"  # one head, too
  spec = dict(
    name="conv1d",
    num_heads=required(options, "num_heads"),
    kernel_size=options.get("kernel_size", 9),
    quirks=("scrambled_heads",) if scrambled else (),
  )
  rules = (
    Rule("W_x.weight", "value/kernel", "split_linear"),
    Rule("W_x.bias", "value/bias", "split_bias"),
    Rule("conv.weight", "convolution/kernel", "conv1d"),
    Rule("conv.bias", "convolution/bias"),
    *layers.merge("W_o"),
  )
  return Conversion("attention", spec, rules)


def _branching(options, module) -> Conversion:
  """ConvNN on the first channels, a convolution or softmax attention on the others."""
  first_versions = module.endswith("(hist)")
  other = "conv1d" if module.startswith("BranchingConv") else "attention"
  kind = ("hist:" if first_versions else "") + "MultiHeadConvNNAttention"
  own = options.get("convnn", {})  # what holds for this branch only
  if "weighting" in own:  # and goes before a flag for both
    options = {name: value for name, value in options.items() if name != "softmax_topk_val"}
  PUBLISHED.check({**own, "module": kind})
  first = _convnn({**options, **own, "module": kind}, kind)
  if other == "conv1d":
    second = _conv1d({name: value for name, value in options.items() if name != "bias"})
  else:
    second = _softmax(options, options.get("attention_bias", options.get("bias", first_versions)))
  ratio = options.get("branch_ratio", 0.5)
  spec = dict(name="branching", first=first.spec, second=second.spec, ratio=ratio)
  rules = layers.prefixed("convnn.", "first/", first.rules)
  rules += layers.prefixed(f"{other}.", "second/", second.rules)
  ignore = tuple(f"convnn.{name}" for name in first.ignore)
  if 0 < ratio < 1:
    return Conversion("attention", spec, (*rules, *layers.linear("pointwise_linear", "mix")), ignore)
  # There is nothing to mix, but the published modules allocate the layer.
  return Conversion("attention", spec, rules, (*ignore, "pointwise_linear.weight", "pointwise_linear.bias"))


def _convnn(options, module) -> Conversion:
  spec = _convnn_spec(options, module)
  names = ("depthwise_conv", "pointwise_conv") if module.endswith("_Depthwise") else ("conv.0", "conv.1")
  # The first versions allocated all projections whether they used them or not.
  letters = [letter for letter in "qkv" if letter not in spec["projection"].replace("none", "")]
  unused = tuple(f"W_{letter}.{part}" for letter in letters for part in ("weight", "bias"))
  rules = layers.projections("W_k", "W_q", "W_v", "W_o") + _convolution(spec["convolution"], *names)
  return Conversion("attention", spec, rules, unused)


def _convnn_spec(options, module) -> dict[str, Any]:
  history = module.startswith("hist:")
  whole_width = module.endswith(("_Modified", "_Depthwise"))
  first_versions = history and not module.endswith("Same_KVT_Attention")
  candidates = PUBLISHED.word(options, "sampling_type", "all")
  similarity = PUBLISHED.word(
    options, "similarity" if "similarity" in options else "magnitude_type", "matmul"
  )
  usual = "standard" if first_versions else "depthwise"
  usual = "depthwise-separable" if module.endswith("_Depthwise") else usual
  heads, coordinates = required(options, "num_heads"), options.get("coordinate_encoding", False)
  linear_bias = options.get("linear_bias", options.get("bias", first_versions))
  weighting = _weighting(options, "similarity" if first_versions else "softmax_topk")

  quirks, self_fill = [], None
  # The main class of the first versions scrambled one head, too; classes without heads never did.
  if PUBLISHED.word(options, "head_merge", "correct") == "scramble" and not whole_width:
    quirks += ["scrambled_heads"] if heads > 1 or first_versions else []
  if candidates == "all":
    self_fill = options.get("self_fill", 1.1 if first_versions else None)
    quirks += ["self_fill"] if self_fill is not None else []
  else:
    quirks += ["weak_self_mask"] if PUBLISHED.word(options, "self_mask", "upstream") == "weak" else []
    by_rank = coordinates and PUBLISHED.word(options, "sample_coords", "rank") == "rank"
    quirks += ["rank_coordinates"] if by_rank else []
  if similarity == "euclidean":
    quirks += ["distance_weights"] if history else []
    # 1.1 names the setting; the constant written into a distance matrix was -0.1.
    self_fill = -0.1 if self_fill == 1.1 else self_fill
  spec = dict(
    name="convnn",
    num_heads=heads,
    num_neighbors=required(options, "K"),
    similarity=similarity,
    weighting=weighting,
    temperature=options.get("temperature", 1.0) if "softmax" in weighting else 1.0,
    convolution=PUBLISHED.word(options, "convolution_type", usual),
    projection=PUBLISHED.word(options, "projection", "kqv"),
    candidates=candidates,
    candidate_padding=options.get("sample_padding", 0) if candidates == "spatial" else 0,
    coordinate_encoding=coordinates,
    split_heads=not whole_width,
    qkv_bias=linear_bias,
    out_bias=linear_bias,
    convolution_bias=options.get("conv_bias", first_versions),
    quirks=tuple(quirks),
  )
  if self_fill is not None:
    spec["self_fill_value"] = self_fill
  if candidates != "all":
    spec["num_candidates"] = required(options, "num_samples")
  if module.endswith("_Modified"):
    spec["value_features"] = options.get("v_out", required(options, "d_hidden") // heads**2)
  return spec


def _weighting(options, usual):
  """The final code has a flag, the experiments have words; both together must agree."""
  if "softmax_topk_val" not in options:
    return PUBLISHED.word(options, "weighting", usual)
  by_flag = "softmax_topk" if options["softmax_topk_val"] else "similarity"
  weighting = PUBLISHED.word(options, "weighting", by_flag)
  if weighting != PUBLISHED.words["weighting"][by_flag]:
    raise UserError(
      f"The published options weighting={options['weighting']!r} and"
      f" softmax_topk_val={options['softmax_topk_val']} contradict each other; give one of them."
    )
  return weighting


def _convolution(kind, depthwise, pointwise):
  """The convolution over neighbours; two layers under these names when it is separable."""
  if kind == "depthwise_separable":
    return (
      Rule(f"{depthwise}.weight", "convolution/kernel", "depthwise_conv1d"),
      Rule(f"{depthwise}.bias", "convolution/bias"),
      Rule(f"{pointwise}.weight", "convolution/pointwise/kernel", "pointwise_conv1d"),
      Rule(f"{pointwise}.bias", "convolution/pointwise/bias"),
    )
  layout = "conv1d" if kind == "standard" else "depthwise_conv1d"
  return Rule("conv.weight", "convolution/kernel", layout), Rule("conv.bias", "convolution/bias")

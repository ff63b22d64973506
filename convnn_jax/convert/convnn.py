"""Options and checkpoints of the published ConvNN code -> our specs and parameters.

Source: Kang et al., "Attention Via Convolutional Nearest Neighbors": the final code, and the experiment
versions before it (modules named `hist:`). In its ConvNN modules the rows of the similarity matrix come from
W_k and the candidates from W_q, so there W_k is our `query` and W_q our `key`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convnn_jax.convert.rules import Rule
from convnn_jax.errors import UserError, choose, unknown_name

# Published words -> ours. A remark in parentheses behind a word is ignored: "n/a (no head split)".
_SIMILARITIES = {"matmul": "dot", "cosine": "cosine", "euclidean": "euclidean"}
_CONVOLUTIONS = {
  "depthwise": "depthwise",
  "standard": "standard",
  "depthwise-separable": "depthwise_separable",
}
_WEIGHTINGS = {"softmax_topk": "softmax", "similarity": "similarity"}
_WEIGHTINGS |= {"softmax_full_row": "full_softmax", "sum_normalised": "sum"}
WORDS = {
  "sampling_type": {"all": "all", "random": "random", "spatial": "spatial"},
  "magnitude_type": _SIMILARITIES,
  "similarity": _SIMILARITIES,  # where a version ignored its own flag; goes before magnitude_type
  "convolution_type": _CONVOLUTIONS,
  "projection": {"kqv": "qkv", "kq": "qk", "v": "v", "none": "none"},
  "weighting": _WEIGHTINGS,
  "head_merge": {"correct": "correct", "upstream_scramble": "scramble", "n/a": "correct"},
  "self_mask": {"strict": "strict", "upstream": "weak", "n/a": "strict"},
  "sample_coords": {"token": "token", "rank": "rank", "n/a": "token"},
  "layer": {
    "Attention": "MultiHeadAttention",
    "ConvNNAttention": "MultiHeadConvNNAttention",
    "KvtAttention": "KvtAttention",
    "BranchAttention": "BranchingAttention",
    "BranchConv": "BranchingConv",
  },
  "x_layout": {"NCHW": "NCHW"},
}
_FLAG, _INTEGER, _NUMBER = "true or false", "an integer", "a number"
_NUMBER_OR_NULL, _SIZES = "a number or null", "three integers"
TYPES = {
  **dict.fromkeys(("d_hidden", "num_heads", "K", "num_samples", "sample_padding", "v_out"), _INTEGER),
  **dict.fromkeys(("d_mlp", "kernel_size", "patch_size", "num_layers", "num_classes"), _INTEGER),
  **dict.fromkeys(("coordinate_encoding", "softmax_topk_val", "bias", "attention_bias"), _FLAG),
  **dict.fromkeys(("linear_bias", "conv_bias"), _FLAG),
  **dict.fromkeys(("temperature", "branch_ratio"), _NUMBER),
  "self_fill": _NUMBER_OR_NULL,
  "img_size": _SIZES,
}
# Descriptions of a case; they change nothing in evaluation.
LABELS = {"module", "experiment", "upstream_commit", "unused_params", "min_topk_gap", "seed", "seq_length"}
LABELS |= {"note", "attention_dropout_after_conv"}

_HEADS = {"d_hidden", "num_heads"}
_CONVNN = _HEADS | {"K", "sampling_type", "num_samples", "sample_padding", "magnitude_type", "bias"}
_CONVNN |= {"coordinate_encoding", "convolution_type", "softmax_topk_val", "head_merge", "self_mask"}
_CONVNN |= {"sample_coords", "similarity", "projection", "weighting", "temperature", "self_fill"}
_CONVNN |= {"linear_bias", "conv_bias"}
_BLOCK = _CONVNN | {"layer", "d_mlp", "kernel_size", "branch_ratio", "attention_bias"}
_VIT = _BLOCK | {"img_size", "patch_size", "num_layers", "num_classes", "x_layout"}

OPTIONS = {
  "MultiHeadConvNNAttention": _CONVNN,
  "MultiHeadAttention": _HEADS | {"bias", "attention_bias"},
  "hist:MultiHeadConvNNAttention": _CONVNN,
  "hist:MultiHeadConvNNAttention_Modified": _CONVNN | {"v_out"},
  "hist:MultiHeadConvNNAttention_Depthwise": _CONVNN,
  "hist:MultiHeadConvNN_Same_KVT_Attention": _CONVNN,
  "EncoderBlock": _BLOCK,
  "ViT": _VIT,
}
NOT_BUILT_YET = {"MultiHeadConv1dAttention", "BranchingConv", "BranchingAttention", "KvtAttention"}
NOT_BUILT_YET |= {"BranchingConv(hist)", "BranchingAttention(hist)"}


class Conversion(NamedTuple):
  """How a published module is built here.

  Attributes:
    kind: "attention" (for make_attention), "block" (fields of EncoderBlock) or "model" (for make_model).
    spec: the spec or fields.
    rules: its parameters.
    ignore: names in its state dict without a counterpart: constants and weights that it never uses.
  """

  kind: str
  spec: dict[str, Any]
  rules: tuple[Rule, ...]
  ignore: tuple[str, ...]


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Raises:
    UserError: unknown module, option or value, or a module that is not built yet.
  """
  module = options.get("module")
  _check(options, module)
  if module == "ViT":
    return _vit(options)
  if module == "EncoderBlock":
    return _block(options)
  return _attention(options, module)


def _check(options, module):
  _check_built(module)
  allowed = choose("published module", module, OPTIONS)
  for option, value in options.items():
    if option in LABELS:
      continue
    if option not in allowed:
      raise unknown_name(f"option of the published module '{module}':", option, allowed)
    if option in WORDS:
      _word(options, option)
    elif not _has_type(value, TYPES[option]):
      raise UserError(f"The published option {option}={value!r} must be {TYPES[option]}.")


def _check_built(module):
  if module in NOT_BUILT_YET:
    raise UserError(f"The published module '{module}' is not built yet.")


def _has_type(value, wanted):
  integer = isinstance(value, int) and not isinstance(value, bool)
  if wanted == _FLAG:
    return isinstance(value, bool)
  if wanted == _INTEGER:
    return integer
  if wanted == _SIZES:
    return isinstance(value, Sequence) and len(value) == 3 and all(_has_type(v, _INTEGER) for v in value)
  return integer or isinstance(value, float) or (value is None and wanted == _NUMBER_OR_NULL)


def _word(options, option, default=None):
  """Our word for the value of `option`; `default` is one of the published words."""
  value = options.get(option, default)
  return choose(f"value of the published option {option}:", str(value).split(" (")[0], WORDS[option])


def _attention(options, module) -> Conversion:
  if module == "MultiHeadAttention":
    bias = options.get("bias", False) or options.get("attention_bias", False)
    spec = dict(name="softmax", num_heads=_required(options, "num_heads"), qkv_bias=bias, out_bias=bias)
    return Conversion("attention", spec, _projections("query", "key"), ())
  spec = _convnn_spec(options, module)
  names = ("depthwise_conv", "pointwise_conv") if module.endswith("_Depthwise") else ("conv.0", "conv.1")
  # The first versions allocated all projections whether they used them or not.
  letters = [letter for letter in "qkv" if letter not in spec["projection"].replace("none", "")]
  unused = tuple(f"W_{letter}.{part}" for letter in letters for part in ("weight", "bias"))
  rules = _projections("key", "query") + _convolution(spec["convolution"], *names)
  return Conversion("attention", spec, rules, unused)


def _convnn_spec(options, module) -> dict[str, Any]:
  history = module.startswith("hist:")
  whole_width = module.endswith(("_Modified", "_Depthwise"))
  first_versions = history and not module.endswith("Same_KVT_Attention")
  candidates = _word(options, "sampling_type", "all")
  similarity = _word(options, "similarity" if "similarity" in options else "magnitude_type", "matmul")
  usual = "standard" if first_versions else "depthwise"
  usual = "depthwise-separable" if module.endswith("_Depthwise") else usual
  heads, coordinates = _required(options, "num_heads"), options.get("coordinate_encoding", False)
  linear_bias = options.get("linear_bias", options.get("bias", first_versions))

  quirks, self_fill = [], None
  # The main class of the first versions scrambled one head, too; classes without heads never did.
  if _word(options, "head_merge", "correct") == "scramble" and not whole_width:
    quirks += ["scrambled_heads"] if heads > 1 or first_versions else []
  if candidates == "all":
    self_fill = options.get("self_fill", 1.1 if first_versions else None)
    quirks += ["self_fill"] if self_fill is not None else []
  else:
    quirks += ["weak_self_mask"] if _word(options, "self_mask", "upstream") == "weak" else []
    by_rank = coordinates and _word(options, "sample_coords", "rank") == "rank"
    quirks += ["rank_coordinates"] if by_rank else []
  if similarity == "euclidean":
    quirks += ["distance_weights"] if history else []
    # 1.1 names the setting; the constant written into a distance matrix was -0.1.
    self_fill = -0.1 if self_fill == 1.1 else self_fill
  spec = dict(
    name="convnn",
    num_heads=heads,
    num_neighbors=_required(options, "K"),
    similarity=similarity,
    weighting=_weighting(options, "similarity" if first_versions else "softmax_topk"),
    temperature=options.get("temperature", 1.0),
    convolution=_word(options, "convolution_type", usual),
    projection=_word(options, "projection", "kqv"),
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
    spec["num_candidates"] = _required(options, "num_samples")
  if module.endswith("_Modified"):
    spec["value_features"] = options.get("v_out", _required(options, "d_hidden") // heads**2)
  return spec


def _weighting(options, usual):
  """The final code has a flag, the experiments have words; both together must agree."""
  if "softmax_topk_val" not in options:
    return _word(options, "weighting", usual)
  by_flag = "softmax_topk" if options["softmax_topk_val"] else "similarity"
  weighting = _word(options, "weighting", by_flag)
  if weighting != WORDS["weighting"][by_flag]:
    raise UserError(
      f"The published options weighting={options['weighting']!r} and"
      f" softmax_topk_val={options['softmax_topk_val']} contradict each other; give one of them."
    )
  return weighting


def _required(options, option):
  if option not in options:
    raise UserError(f"The published module '{options['module']}' needs the option {option} here.")
  return options[option]


def _block(options) -> Conversion:
  layer = _word(options, "layer")
  _check_built(layer)
  attention = _attention(options, layer)
  rules = _prefixed("attention.", "attention/", attention.rules)
  rules += (*_norm("norm1", "norm1"), *_norm("norm2", "norm2"))
  rules += (*_linear("mlp.0", "mlp/hidden_layer"), *_linear("mlp.3", "mlp/out"))
  spec = dict(attention=attention.spec, mlp_dim=_required(options, "d_mlp"))
  return Conversion("block", spec, rules, tuple(f"attention.{name}" for name in attention.ignore))


def _vit(options) -> Conversion:
  block = _block(options)
  spec = dict(
    name="vit",
    patch_size=_required(options, "patch_size"),
    width=_required(options, "d_hidden"),
    depth=_required(options, "num_layers"),
    **block.spec,
  )
  rules = _prefixed("transformer_encoder.{layer}.", "block_{layer}/", block.rules)
  rules += (
    Rule("patch_embedding.linear_projection.weight", "patch_embedding/projection/kernel", "conv2d"),
    Rule("patch_embedding.linear_projection.bias", "patch_embedding/projection/bias"),
    *_norm("patch_embedding.norm", "patch_embedding/norm"),
    Rule("positional_encoding.cls_tokens", "class_token"),
    *_linear("classifier", "head"),
  )
  # The sine table is a buffer there and a constant here.
  ignore = ("positional_encoding.pe", *(f"transformer_encoder.{{layer}}.{name}" for name in block.ignore))
  return Conversion("model", spec, rules, ignore)


def _linear(source, target):
  return Rule(f"{source}.weight", f"{target}/kernel", "linear"), Rule(f"{source}.bias", f"{target}/bias")


def _norm(source, target):
  return Rule(f"{source}.weight", f"{target}/scale"), Rule(f"{source}.bias", f"{target}/bias")


def _projections(w_q, w_k):
  """The four projections; `w_q` and `w_k` are our names for W_q and W_k."""
  into_heads = [("W_q", w_q), ("W_k", w_k), ("W_v", "value")]
  weights = [Rule(f"{source}.weight", f"{target}/kernel", "split_linear") for source, target in into_heads]
  biases = [Rule(f"{source}.bias", f"{target}/bias", "split_bias") for source, target in into_heads]
  return (*weights, *biases, Rule("W_o.weight", "out/kernel", "merge_linear"), Rule("W_o.bias", "out/bias"))


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


def _prefixed(source, target, rules):
  return tuple(Rule(source + rule.source, target + rule.target, rule.layout) for rule in rules)

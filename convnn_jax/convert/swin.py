"""Options and checkpoints of the published Swin code -> our specs and parameters.

Sources: the code of Liu et al., "Swin Transformer" (V1, SwinMLP) and "Swin Transformer V2", and its fork "Improving
Redundancy in Attention" (`fork_v1`, `fork_v2`), whose versions differ in what bounds the MLPs' results.
"""

from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import layers
from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule
from convnn_jax.convert.swin_words import PUBLISHED, read_module
from convnn_jax.errors import UserError
from convnn_jax.ops.windows import fit_window, pair

# Derived there and stored all the same, or constant.
_CONSTANTS = ("relative_position_index", "relative_coords_table", "qk_weight_residual")


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Raises:
    UserError: unknown module, option or value.
  """
  kind, flavour = read_module(options.get("module"))
  if kind == "resize":  # sizes before and after follow from the tables
    options = {name: value for name, value in options.items() if not name.startswith(("old_", "new_"))}
  PUBLISHED.check({**options, "module": kind})
  if kind == "resize":
    return Conversion("resize", {}, ())
  if kind == "PatchMerging":
    return Conversion("merging", dict(norm_placement=flavour.norm_placement), _merging())
  if kind == "WindowAttention":
    pretrained = pair("pretrained_window_size", options.get("pretrained_window_size", 0))
    spec = _attention(flavour, options, pretrained)
    return Conversion("attention", spec, attention_rules(flavour), _attention_constants(""))
  block = kind in ("SwinTransformerBlock", "SwinMLPBlock")
  return _block(flavour, options) if block else _model(flavour, options)


def _attention(flavour, options, pretrained_window=(0, 0)) -> dict[str, Any]:
  heads = required(options, "num_heads")
  num_heads = tuple(heads) if isinstance(heads, (list, tuple)) else heads
  spec = dict(flavour.attention, num_heads=num_heads)
  if spec["name"] == "spatial_mlp":
    return spec
  spec["qkv_bias"] = options.get("qkv_bias", True)
  if spec["similarity"] == "cosine":
    return spec | dict(pretrained_window=pretrained_window)
  return spec | dict(scale=options.get("qk_scale") or 0.0)


def _block(flavour, options) -> Conversion:
  grid = pair("input_resolution", required(options, "input_resolution"))
  window = pair("window_size", required(options, "window_size"))
  shift = pair("shift_size", options.get("shift_size", 0))
  fitted = fit_window(grid, window, shift)
  for name, ours in zip(("effective_window", "effective_shift"), fitted, strict=True):
    if name in options and pair(name, options[name]) != ours:
      raise UserError(f"The published option {name}={options[name]} should be {ours} here.")
  pretrained = pair("pretrained_window_size", options.get("pretrained_window_size", 0))
  spec = dict(
    attention=_attention(flavour, options, pretrained),
    mlp_dim=int(required(options, "dim") * options.get("mlp_ratio", 4.0)),
    window=window,
    shift=shift,
    shift_kind=flavour.shift,
    norm_placement=flavour.norm_placement,
  )
  return Conversion("swin_block", spec, block_rules(flavour), _block_constants(""))


def _model(flavour, options) -> Conversion:
  depths = tuple(required(options, "depths"))
  pretrained = options.get("pretrained_window_sizes", (0,) * len(depths))
  attention = _attention(flavour, options, tuple((side, side) for side in pretrained))
  per_stage = flavour.pre_mlp == "stage" or (flavour.per_stage_mlp and options.get("pre_mlp", False))
  spec = dict(
    name="swin",
    patch_size=options.get("patch_size", 4),
    width=required(options, "embed_dim"),
    depths=depths,
    window_size=pair("window_size", options.get("window_size", 7)),
    mlp_ratio=options.get("mlp_ratio", 4.0),
    attention=attention,
    norm_placement=flavour.norm_placement,
    patch_norm="after" if options.get("patch_norm", True) else "none",
    position_embedding="learned" if options.get("ape", False) else "none",
    pre_mlp="stage" if per_stage else flavour.pre_mlp,
    shift=flavour.shift,
    drop_path_rate=options.get("drop_path_rate", 0.1),
  )
  return Conversion("model", spec, model_rules(flavour), MODEL_CONSTANTS)


def attention_rules(flavour) -> tuple[Rule, ...]:
  """The parameters of an attention, in the names of a flavour."""
  if flavour.attention["name"] == "spatial_mlp":
    return Rule("weight", "kernel", "mixing_conv1d"), Rule("bias", "bias", "split_bias")
  tables = "rp_affine." if flavour.renamed_tables else ""
  projections = layers.fused_projections("qkv", "proj")
  if flavour.attention["similarity"] == "cosine":  # two biases there, which are not fused
    biases = Rule("q_bias", "query/bias", "split_bias"), Rule("v_bias", "value/bias", "split_bias")
    projections = (*biases, *(rule for rule in projections if not rule.source.startswith("qkv.bias")))
  return (
    *projections,
    Rule("logit_scale", "logit_scale", "per_head"),
    Rule(f"{tables}relative_position_bias_table", "relative_bias_table"),
    Rule(f"{tables}relative_position_weight_table", "rel_pos_weight_table"),
    *_position_mlp("cpb_mlp", "relative_bias_mlp"),
    *_position_mlp("cpw_mlp", "rel_pos_weight_mlp"),
  )


def block_rules(flavour) -> tuple[Rule, ...]:
  """The parameters of a block."""
  attention = "spatial_mlp." if flavour.attention["name"] == "spatial_mlp" else "attn."
  return (
    *layers.prefixed(attention, "attention/", attention_rules(flavour)),
    *layers.norm("norm1", "norm1"),
    *layers.norm("norm2", "norm2"),
    *_mlp("mlp", "mlp"),
  )


def model_rules(flavour) -> tuple[Rule, ...]:
  """The parameters of a model."""
  return (
    *layers.prefixed("layers.{stage}.blocks.{block}.", "stage_{stage}/block_{block}/", block_rules(flavour)),
    Rule("patch_embed.proj.weight", "patch_embedding/projection/kernel", "conv2d"),
    Rule("patch_embed.proj.bias", "patch_embedding/projection/bias"),
    *layers.norm("patch_embed.norm", "patch_embedding/norm"),
    Rule("absolute_pos_embed", "position_embedding/table", "drop_batch_axis"),
    *_pre_mlp(),
    *layers.prefixed("layers.{stage}.", "stage_{stage}/", _pre_mlp()),
    *layers.prefixed("layers.{stage}.downsample.", "stage_{stage}/merging/", _merging()),
    *layers.norm("norm", "final_norm"),
    *layers.linear("head", "head"),
  )


def _merging() -> tuple[Rule, ...]:
  return (Rule("reduction.weight", "reduction/kernel", "linear"), *layers.norm("norm", "norm"))


def _mlp(source, target) -> tuple[Rule, ...]:
  return (
    *layers.linear(f"{source}.fc1", f"{target}/hidden_layer"),
    *layers.linear(f"{source}.fc2", f"{target}/out"),
  )


def _pre_mlp() -> tuple[Rule, ...]:
  return (*layers.norm("pre_norm", "pre_norm"), *_mlp("pre_mlp", "pre_mlp"))


def _position_mlp(source, target) -> tuple[Rule, ...]:
  return (
    *layers.linear(f"{source}.0", f"{target}/hidden_layer"),
    Rule(f"{source}.2.weight", f"{target}/out/kernel", "linear"),
  )


def _attention_constants(prefix) -> tuple[str, ...]:
  return tuple(prefix + part + name for name in _CONSTANTS for part in ("", "rp_affine."))


def _block_constants(prefix) -> tuple[str, ...]:
  return (f"{prefix}attn_mask", *_attention_constants(f"{prefix}attn."))


MODEL_CONSTANTS = _block_constants("layers.{stage}.blocks.{block}.")

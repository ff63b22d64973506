"""Options and checkpoints of self-optimal transport and of the compact transformers -> ours.

Sources: the self-optimal-transport feature transform and its study in compact transformers (SOT(Q), SOT(Q, K),
SOT(Q, K^T)); CCT, CVT and ViT-Lite of Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers".
"""

from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import layers
from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule
from convnn_jax.convert.sot_cct_words import PUBLISHED
from convnn_jax.errors import UserError

POSITIONS = "classifier.positional_emb"
_ATTENTION_RULES = layers.fused_projections("qkv", "proj")


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Returns:
    Besides the usual kinds: "transport" (fields of self_transport), "tokenizer" (of ConvTokenizer), "pooling" (of
    SequencePooling), "compact_block" (of CompactBlock), "resize" (arguments of resize_positions) and "schedule"
    (num_epochs, and under "optimizer" fields of config.optimizer).

  Raises:
    UserError: unknown module, option or value.
  """
  PUBLISHED.check(options)
  return _MODULES[options["module"]](options)


def transport(options: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of self_transport from the options of the published transform.

  Raises:
    UserError: unknown option or value.
  """
  PUBLISHED.check({**options, "module": "sot_transform"})
  fields = dict(
    metric=PUBLISHED.word(options, "metric", "euclidean"),
    cost_scale=PUBLISHED.word(options, "cost_scale", "row_max"),
    marginal=PUBLISHED.word(options, "marginal", "uniform"),
    link=PUBLISHED.word(options, "link", "sigmoid"),
    regularization=options.get("reg", 0.1),
    iterations=options.get("iterations", 10),
    diagonal="masked" if options.get("mask_diag", True) else "kept",
    rescale="max" if options.get("grad_through_max", True) else "constant_max",
  )
  if fields["diagonal"] == "masked":  # elsewhere they have no part, here as there
    fields |= dict(
      mask_value=options.get("mask_value", 1000.0), diagonal_value=options.get("diag_value", 1.0)
    )
  if not options.get("max_scale", True):
    fields["rescale"] = "none"
  if (options.get("stop_threshold") or 0) > 0:  # nothing moves by less than 0
    fields["stop_threshold"] = options["stop_threshold"]
  return fields


def _transport(options) -> Conversion:
  return Conversion("transport", transport(options), ())


def _attention(options, num_heads=None) -> Conversion:
  """Plain attention, or that on the transport, whose options are those of the transform under `sot`."""
  shared = dict(
    num_heads=required(options, "heads") if num_heads is None else num_heads,
    qkv_bias=options.get("qkv_bias", False),
    out_bias=options.get("proj_bias", True),
    linear_init="normal",
  )
  spec = dict(name="softmax", **shared)
  if options["module"] == "sot_attention":
    own = transport(options.get("sot", {}))
    spec = dict(
      name="sot",
      variant=PUBLISHED.word(options, "variant", "sot_q"),
      normalization=PUBLISHED.word(options, "post", "softmax"),
      scale=options.get("scale") or 0.0,
      **own,
      **shared,
    )
  return Conversion("attention", spec, _ATTENTION_RULES)


def _inner_attention(options, num_heads) -> Conversion:
  """The attention of a block: plain unless the option `attention` describes another."""
  given = options.get("attention")
  if given is None:
    return _attention({"module": "attention"}, num_heads)
  given = {"module": "sot_attention", **given}
  PUBLISHED.check(given)
  if given.get("heads", num_heads) != num_heads:
    raise UserError(
      f"The attention has heads={given['heads']}, the module around it {num_heads}; they must agree."
    )
  return _attention(given, num_heads)


def _block_rules() -> tuple[Rule, ...]:
  return (
    *layers.prefixed("self_attn.", "attention/", _ATTENTION_RULES),
    *layers.norm("pre_norm", "norm1"),
    *layers.norm("norm1", "norm2"),
    *layers.linear("linear1", "mlp/hidden_layer"),
    *layers.linear("linear2", "mlp/out"),
  )


def _block(options) -> Conversion:
  attention = _inner_attention(options, required(options, "heads"))
  spec = dict(attention=attention.spec, mlp_dim=required(options, "mlp_dim"))
  return Conversion("compact_block", spec, _block_rules())


def _tokenizer_rules(source: str, target: str) -> tuple[Rule, ...]:
  weight, bias = f"{source}conv_layers.{{stage}}.0.weight", f"{source}conv_layers.{{stage}}.0.bias"
  return (
    Rule(weight, f"{target}convolution_{{stage}}/kernel", "conv2d"),
    Rule(bias, f"{target}convolution_{{stage}}/bias"),
  )


def _tokenizer(options) -> Conversion:
  spec = dict(
    width=options.get("n_output_channels", 64),
    num_stages=options.get("n_conv_layers", 1),
    kernel_size=required(options, "kernel_size"),
    stride=required(options, "stride"),
    padding=required(options, "padding"),
    stage_width=options.get("in_planes", 64),
    activation=PUBLISHED.word(options, "activation", "None"),
    pool="max" if options.get("max_pool", True) else "none",
    bias=options.get("conv_bias", False),
  )
  return Conversion("tokenizer", spec, _tokenizer_rules("", ""))


def _pooling(options) -> Conversion:
  return Conversion("pooling", {}, layers.linear("attention_pool", "score"))


def _model(options) -> Conversion:
  """CCT, CVT or ViT-Lite."""
  family = options["module"]
  heads, width = required(options, "num_heads"), required(options, "embedding_dim")
  attention = _inner_attention(options, heads)
  position = PUBLISHED.word(options, "positional_embedding", "learnable")
  spec = dict(
    name="cct",
    width=width,
    depth=required(options, "num_layers"),
    mlp_dim=int(width * options.get("mlp_ratio", 4.0)),
    attention=attention.spec,
    position_embedding=position,
    pooling="cls" if family == "vit_lite" else "sequence",
    **(_convolutions(options) if family == "cct" else _patches(options)),
  )
  # A fixed table is stored there and a constant here.
  return Conversion("model", spec, model_rules(), () if position == "learned" else (POSITIONS,))


def model_rules() -> tuple[Rule, ...]:
  """The parameters of CCT, CVT and ViT-Lite."""
  rules = _tokenizer_rules("tokenizer.", "tokens/")
  rules += layers.prefixed("classifier.blocks.{layer}.", "block_{layer}/", _block_rules())
  rules += layers.prefixed("classifier.", "", layers.norm("norm", "final_norm") + layers.linear("fc", "head"))
  rules += layers.linear("classifier.attention_pool", "pooling/score")
  return (
    *rules,
    Rule(POSITIONS, "position_embedding/table", "drop_batch_axis"),
    Rule("classifier.class_emb", "class_token"),
  )


def _convolutions(options):
  k = options.get("kernel_size", 3)
  return dict(
    tokenizer="convolution",
    kernel_size=k,
    num_convolutions=options.get("n_conv_layers", 1),
    stride=options.get("stride", max(1, k // 2 - 1)),
    padding=options.get("padding", max(1, k // 2)),
    stage_width=options.get("in_planes", 64),
  )


def _patches(options):
  return dict(
    tokenizer="patches",
    patch_size=options["patch_size"] if "patch_size" in options else required(options, "kernel_size"),
  )


def _resize(options) -> Conversion:
  sides = lambda name: (grid, grid) if isinstance(grid := required(options, name), int) else tuple(grid)
  arguments = dict(
    old_grid=sides("old_grid"), new_grid=sides("new_grid"), num_prefix=options.get("num_tokens", 0)
  )
  return Conversion("resize", arguments, ())


def _schedule(options) -> Conversion:
  optimizer = dict(
    learning_rate=required(options, "lr"),
    schedule="cosine",
    schedule_unit="epoch",
    warmup="hyperbolic",
    warmup_epochs=required(options, "warmup"),
  )
  return Conversion("schedule", dict(num_epochs=required(options, "epochs"), optimizer=optimizer), ())


_MODULES = {
  "sot_transform": _transport,
  "sot_attention": _attention,
  "attention": _attention,
  "tokenizer": _tokenizer,
  "seq_pool": _pooling,
  "encoder_block": _block,
  "cct": _model,
  "cvt": _model,
  "vit_lite": _model,
  "resize_pos_embed": _resize,
  "lr_per_epoch": _schedule,
}

"""Options and checkpoints of comparison attentions and of the ViT around them -> our specs and parameters.

Sources: KVT (k-NN attention), local-attention (lucidrains), the Sparse Transformer as used by ConvNN, NATTEN, and the
ViT of the published ConvNN comparison (`ConvNNViT`); the other modules of the family are in study.py and
transformer.py.
"""

from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import convnn, layers, study, transformer
from convnn_jax.convert.options import Conversion, NotOffered, required
from convnn_jax.convert.rules import Rule
from convnn_jax.convert.zoo_words import PUBLISHED

_SEGFORMER = ("segformer.EfficientSelfAttention", "segformer.Block")


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Raises:
    UserError: unknown module, option or value; NotOffered for what is left out on purpose.
  """
  if options.get("module") in _SEGFORMER:
    raise NotOffered(
      f"{options['module']} is not offered: it is a layer of semantic segmentation, and models here classify images."
    )
  PUBLISHED.check(options)
  module = options["module"]
  if module in study.CONVERSIONS:
    return study.CONVERSIONS[module](options)
  if module in transformer.CONVERSIONS:
    return transformer.CONVERSIONS[module](options)
  if module == "ConvNNViT":
    attention = _layer(options, PUBLISHED.word(options, "layer"))
    return layers.vision_transformer(options, layers.encoder_block(options, attention))
  if module == "KvtAttention":
    return convnn.knn(options, num_neighbors=options.get("topk", 100))
  if module == "SparseAttention":
    mode = PUBLISHED.word(options, "mode" if "mode" in options else "attn_mode", "all")
    return _sparse(options, mode, options.get("context", options.get("local_attn_ctx")))
  if module == "NeighborhoodAttention1D":
    return _neighborhood(options)
  return _local_core(options) if module.endswith(".core") else _local(options, required(options, "heads"))


def _layer(options, layer) -> Conversion:
  """The attention inside ConvNNViT, with the values that are fixed there."""
  if layer == "KvtAttention":
    return convnn.knn(options, num_neighbors=required(options, "K"))
  if layer == "SparseAttention":
    mode = PUBLISHED.word(options, "sparse_mode", "all")
    return _sparse(options, mode, options.get("sparse_context_window", 128))
  if layer == "LocalAttention":
    fixed = dict(window_size=128, dim_head=64, look_forward=1, exact_windowsize=True)
    own = {name: value for name, value in options.items() if name in PUBLISHED.modules[layer] - {"qk_scale"}}
    return _local(fixed | own | dict(module=layer), required(options, "num_heads"))
  return convnn.attention(options, layer)


def _sparse(options, pattern, window) -> Conversion:
  if pattern != "all" and window is None:
    required(options, "local_attn_ctx")
  spec = dict(name="sparse", num_heads=required(options, "num_heads"), pattern=pattern)
  spec |= {} if window is None else dict(window=window)
  return Conversion("attention", spec, layers.projections("q_proj", "k_proj", "v_proj", "out_proj"))


def _neighborhood(options) -> Conversion:
  spec = dict(
    name="neighborhood",
    num_heads=required(options, "num_heads"),
    window_size=options["kernel"] if "kernel" in options else required(options, "kernel_size"),
    stride=options.get("stride", 1),
    dilation=options.get("dilation", 1),
    causal=options.get("is_causal", False),
    scale=options.get("qk_scale") or 0.0,
    qkv_bias=options.get("qkv_bias", False),
    out_bias=options.get("proj_bias", True),
  )
  return Conversion("attention", spec, layers.fused_projections("qkv", "proj"))


def _local_fields(options, exact) -> dict[str, Any]:
  """What the attention and its core without parameters have in common; `exact` is their default."""
  if options.get("use_xpos", False):
    raise NotOffered(
      "use_xpos=True is not offered: xPos lets scores fade with the distance so that causal models extrapolate to"
      " longer sequences, and images here have one length; use use_xpos=False."
    )
  causal = options.get("causal", False)
  forward = options.get("look_forward")
  exact = exact if options.get("exact_windowsize") is None else options["exact_windowsize"]
  quirks = []
  # A mask of the keys hides the padding there, too.
  given = PUBLISHED.word(options, "key_mask", "none") == "given"
  quirks += [] if options.get("mask_padding", False) or given else ["visible_padding"]
  quirks += (
    ["shifted_rotary"] if PUBLISHED.word(options, "rotary_alignment", "upstream") == "upstream" else []
  )
  return dict(
    window_size=required(options, "window_size"),
    look_backward=options.get("look_backward", 1),
    look_forward=(0 if causal else 1) if forward is None else forward,
    reach="exact" if exact else "windows",
    causal=causal,
    positions="rotary" if options.get("rotary", True) else "none",
    scale=options.get("scale") or 0.0,
    quirks=tuple(quirks),
  )


def _local(options, num_heads) -> Conversion:
  spec = dict(
    name="local",
    num_heads=num_heads,
    head_dim=options.get("dim_head", 64),
    **_local_fields(options, exact=True),
    gate=options.get("gate", False) or options.get("gate_values_per_head", False),
    prenorm=options.get("prenorm", False),
    qk_norm="key" if options.get("shared_qk", False) else "none",
  )
  if options.get("qk_rmsnorm", False):
    both = options.get("shared_qk", False)
    spec |= dict(qk_norm="l2_key" if both else "l2", scale=options.get("qk_scale") or 8.0)
  rules = (
    *layers.norm("norm", "norm"),
    *layers.fused_projections("to_qkv", "to_out"),
    Rule("q_scale", "query_scale"),
    Rule("k_scale", "key_scale"),
    *layers.linear("to_v_gate.0", "gate_layer"),
  )
  # Tables of the rotation are buffers there and computed here.
  return Conversion("attention", spec, rules, ("attn_fn.rel_pos.inv_freq", "attn_fn.rel_pos.scale"))


def _local_core(options) -> Conversion:
  """Queries, keys and values in, no parameters; positions only when `dim` tells the width of a head."""
  fields = _local_fields(options, exact=False) | dict(unit_keys=options.get("shared_qk", False))
  if options.get("dim") is None:
    fields["positions"] = "none"
  return Conversion("scores", fields, (), ("rel_pos.inv_freq", "rel_pos.scale"))

"""Options and checkpoints of comparison attentions and of the ViT around them -> our specs and parameters.

Sources: KVT (k-NN attention), local-attention (lucidrains), the Sparse Transformer as used by ConvNN, NATTEN,
vit-pytorch (vit and deepvit), and the ViT of the published ConvNN comparison (`ConvNNViT`).
"""

from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import convnn, layers
from convnn_jax.convert.options import (
  FLAG,
  FLAG_OR_NULL,
  INTEGER,
  INTEGER_OR_NULL,
  NUMBER,
  NUMBER_OR_NULL,
  SIZES,
  Conversion,
  NotOffered,
  Vocabulary,
  required,
)
from convnn_jax.convert.rules import Rule

_PATTERNS = {"all": "all", "local": "local", "strided": "strided"}
_WORDS = {
  "attn_mode": _PATTERNS,
  "mode": _PATTERNS,
  "sparse_mode": _PATTERNS,
  "rotary_alignment": {"centered": "centered", "upstream": "upstream"},
  "key_mask": {"none": "none", "None": "none", "given in aux:key_mask": "given"},
  "layer": {
    "Attention": "MultiHeadAttention",
    "KvtAttention": "KvtAttention",
    "LocalAttention": "LocalAttention",
    "SparseAttention": "SparseAttention",
  },
  "x_layout": {"NCHW": "NCHW"},
}
_TYPES = {
  **dict.fromkeys(("num_heads", "heads", "dim_head", "topk", "window_size", "look_backward"), INTEGER),
  **dict.fromkeys(("d_hidden", "embed_dim", "kernel_size", "kernel", "stride", "dilation", "K"), INTEGER),
  **dict.fromkeys(("patch_size", "num_layers", "d_mlp", "sparse_context_window", "num_classes"), INTEGER),
  **dict.fromkeys(("dim", "look_forward", "local_attn_ctx", "context"), INTEGER_OR_NULL),
  **dict.fromkeys(("qk_scale", "scale", "xpos_scale_base"), NUMBER_OR_NULL),
  **dict.fromkeys(("attn_drop", "proj_drop", "dropout", "attention_dropout"), NUMBER),
  **dict.fromkeys(("qkv_bias", "proj_bias", "causal", "is_causal", "prenorm", "qk_rmsnorm"), FLAG),
  **dict.fromkeys(("gate", "gate_values_per_head", "autopad", "rotary", "mask_padding"), FLAG),
  **dict.fromkeys(("shared_qk", "use_xpos"), FLAG),
  "exact_windowsize": FLAG_OR_NULL,
  "img_size": SIZES,
}
_LABELS = {"module", "note", "seed", "source", "inputs", "upstream_commit", "unused_params", "min_topk_gap"}

_CORE = {
  "window_size",
  "causal",
  "look_backward",
  "look_forward",
  "exact_windowsize",
  "autopad",
  "scale",
  "dropout",
}
_CORE |= {"shared_qk", "dim", "dim_head", "heads", "rotary", "use_xpos", "xpos_scale_base", "key_mask"}
_CORE |= {"mask_padding", "rotary_alignment"}
_LOCAL = _CORE | {"prenorm", "qk_rmsnorm", "qk_scale", "gate", "gate_values_per_head"}
_VIT = {"dim", "heads", "dim_head", "dropout"}
_CONVNN_VIT = {
  "layer",
  "patch_size",
  "num_layers",
  "num_heads",
  "d_hidden",
  "d_mlp",
  "dropout",
  "attention_dropout",
}
_CONVNN_VIT |= {"K", "sparse_mode", "sparse_context_window", "img_size", "num_classes", "x_layout"}
_CONVNN_VIT |= {
  "window_size",
  "dim_head",
  "mask_padding",
  "rotary_alignment",
  "qkv_bias",
  "proj_bias",
  "qk_scale",
}
_MODULES = {
  "KvtAttention": {"dim", "num_heads", "topk", "qkv_bias", "proj_bias", "qk_scale", "attn_drop", "proj_drop"},
  "LocalAttention": _LOCAL,
  "LocalAttention.core": _CORE,
  "SparseAttention": {
    "d_hidden",
    "num_heads",
    "attn_mode",
    "mode",
    "local_attn_ctx",
    "context",
    "attention_dropout",
  },
  "NeighborhoodAttention1D": {
    "embed_dim",
    "num_heads",
    "kernel_size",
    "kernel",
    "stride",
    "dilation",
    "is_causal",
  }
  | {"qkv_bias", "proj_bias", "qk_scale", "proj_drop"},
  "vit.Attention": _VIT,
  "deepvit.Attention": _VIT,
  "ConvNNViT": _CONVNN_VIT,
}
PUBLISHED = Vocabulary(_MODULES, _WORDS, _TYPES, _LABELS)


def conversion(options: Mapping[str, Any]) -> Conversion:
  """The counterpart of a published module.

  Args:
    options: `module` and its options, in the words of the published code.

  Raises:
    UserError: unknown module, option or value; NotOffered for what is left out on purpose.
  """
  PUBLISHED.check(options)
  module = options["module"]
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
  if module.startswith("LocalAttention"):
    return _local_core(options) if module.endswith(".core") else _local(options, required(options, "heads"))
  return _normed(options, module)


def _layer(options, layer) -> Conversion:
  """The attention inside ConvNNViT, with the values that are fixed there."""
  if layer == "KvtAttention":
    return convnn.knn(options, num_neighbors=required(options, "K"))
  if layer == "SparseAttention":
    mode = PUBLISHED.word(options, "sparse_mode", "all")
    return _sparse(options, mode, options.get("sparse_context_window", 128))
  if layer == "LocalAttention":
    fixed = dict(window_size=128, dim_head=64, look_forward=1, exact_windowsize=True)
    own = {name: value for name, value in options.items() if name in _LOCAL - {"qk_scale"}}
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


def _normed(options, module) -> Conversion:
  """vit-pytorch puts its LayerNorm inside the attention; always 64 channels a head unless told otherwise."""
  heads, d = options.get("heads", 8), options.get("dim_head", 64)
  spec = dict(name="softmax", num_heads=heads, head_dim=d, out_bias=True)
  rules = layers.fused_projections("to_qkv", "to_out.0")
  if module == "deepvit.Attention":
    spec["name"] = "reattention"
    rules += (Rule("reattn_weights", "head_mix"), *layers.norm("reattn_norm.1", "head_norm"))
  elif heads == 1 and d == required(options, "dim"):
    spec |= dict(out_bias=False, out_projection="none")
  return Conversion(
    "normed_attention", spec, (*layers.norm("norm", "norm"), *layers.prefixed("", "attention/", rules))
  )


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
    if options.get("shared_qk", False):
      raise NotOffered(
        "qk_rmsnorm=True together with shared_qk=True is not offered: keys would be normalised twice."
      )
    spec |= dict(qk_norm="l2", scale=options.get("qk_scale") or 8.0)
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

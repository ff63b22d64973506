"""Options and checkpoints of the attention study's models -> our specs and parameters.

Sources: vit-pytorch (vit and deepvit, 1.0.0 to 2026), and the CNN, the hybrid and the training protocol of
holestine/Attention.
"""

import math
from collections.abc import Mapping
from typing import Any

from convnn_jax.convert import layers
from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule
from convnn_jax.convert.zoo_words import PUBLISHED
from convnn_jax.layers.tokenizer import patch_sides


def checkpoint_options(state: Mapping[str, Any]) -> dict[str, bool]:
  """What the arrays of a vit or deepvit checkpoint tell and its options do not; {} for other modules.

  Versions differ: whether a class token is there with pool="mean", whether tokens and positions have a batch axis, and
  whether the last LayerNorm is counted to the head.
  """
  prefix = "vit." if "vit.pos_embedding" in state else ""
  if f"{prefix}pos_embedding" not in state:
    return {}
  token = state.get(f"{prefix}cls_token")
  return dict(
    cls_token=token is not None and token.size > 0,
    batch_axis=state[f"{prefix}pos_embedding"].ndim == 3,
    norm_in_head=f"{prefix}mlp_head.1.weight" in state,
  )


def _attention(options, deep) -> Conversion:
  """vit-pytorch puts its LayerNorm inside the attention; always 64 channels a head unless told otherwise."""
  heads, d = options.get("heads", 8), options.get("dim_head", 64)
  spec = dict(name="softmax", num_heads=heads, head_dim=d, out_bias=True)
  rules = layers.fused_projections("to_qkv", "to_out.0")
  if deep:
    spec["name"] = "reattention"
    rules += (Rule("reattn_weights", "head_mix"), *layers.norm("reattn_norm.1", "head_norm"))
  elif heads == 1 and d == required(options, "dim"):
    spec |= dict(out_bias=False, out_projection="none")
  return Conversion("attention", spec, rules)


def _normed_attention(options) -> Conversion:
  made = _attention(options, deep=options["module"].startswith("deepvit"))
  rules = (*layers.norm("norm", "norm"), *layers.prefixed("", "attention/", made.rules))
  return Conversion("normed_attention", made.spec, rules)


def _feed_forward(options) -> Conversion:
  spec = dict(hidden=required(options, "hidden_dim"))
  rules = (*layers.norm("net.0", "norm"), *_mlp("net", "mlp"))
  return Conversion("normed_mlp", spec, rules)


def _mlp(source, target):
  return (
    *layers.linear(f"{source}.1", f"{target}/hidden_layer"),
    *layers.linear(f"{source}.4", f"{target}/out"),
  )


def _vit(options) -> Conversion:
  return _tower(options, required(options, "image_size"), required(options, "patch_size"))


def _tower(options, image_size, patch_size) -> Conversion:
  """ViT and DeepViT; `image_size` decides the number of positions and need not be the true one."""
  deep = options["module"].startswith("deepvit")
  attention = _attention(options, deep)
  pooling = PUBLISHED.word(options, "pool", "cls")
  has_token = options.get("cls_token", True)
  norm_in_head = options.get("norm_in_head", deep)
  rows, columns = patch_sides(image_size)
  p, q = patch_sides(patch_size)
  spec = dict(
    name="vit",
    patch_size=patch_size,
    patch_norm="both",
    width=required(options, "dim"),
    depth=required(options, "depth"),
    mlp_dim=required(options, "mlp_dim"),
    attention=attention.spec,
    position_embedding="learned",
    num_positions=(rows // p) * (columns // q) + has_token,
    pooling="mean_all" if pooling == "mean" and has_token else pooling,
    final_norm="after_pooling" if norm_in_head else "layer_norm",
  )
  block = (
    *layers.norm("0.norm", "norm1"),
    *layers.prefixed("0.", "attention/", attention.rules),
    *layers.norm("1.net.0", "norm2"),
    *_mlp("1.net", "mlp"),
  )
  batched = options.get("batch_axis", True)
  rules = (
    *layers.prefixed("transformer.layers.{layer}.", "block_{layer}/", block),
    *layers.norm("to_patch_embedding.1", "patch_embedding/pixel_norm"),
    Rule("to_patch_embedding.2.weight", "patch_embedding/projection/kernel", "merge_linear"),
    Rule("to_patch_embedding.2.bias", "patch_embedding/projection/bias"),
    *layers.norm("to_patch_embedding.3", "patch_embedding/norm"),
    Rule("pos_embedding", "position_embedding/table", "drop_batch_axis" if batched else "same"),
    Rule("cls_token", "class_token", "same" if batched else "add_batch_axis"),
    *layers.norm("mlp_head.0" if norm_in_head else "transformer.norm", "final_norm"),
    *layers.linear("mlp_head.1" if norm_in_head else "mlp_head", "head"),
  )
  # Newer versions keep an empty array where there is no class token.
  return Conversion("model", spec, rules, () if has_token else ("cls_token",))


def _convolutions() -> tuple[Rule, ...]:
  pairs = (("weight", "kernel", "conv2d"), ("bias", "bias", "same"))
  return tuple(
    Rule(f"{name}.{there}", f"stem/{name}/{here}", layout)
    for name in ("conv1", "conv2")
    for there, here, layout in pairs
  )


def _cnn(options) -> Conversion:
  channels = tuple(options.get("conv_channels", (32, 64)))
  spec = dict(name="cnn", stem_channels=channels, hidden_dim=options.get("fc_hidden", 128))
  rules = (
    *_convolutions(),
    Rule("fc1.weight", "hidden_layer/kernel", "map_linear"),
    Rule("fc1.bias", "hidden_layer/bias"),
    *layers.linear("fc2", "head"),
  )
  return Conversion("model", spec, rules)


def _hybrid(options) -> Conversion:
  """There the feature map's number of pixels is passed as the side of the image, half of its side as the patch."""
  side = int((math.isqrt(required(options, "image_pixels")) - 4) / 2)
  tower = _tower(options, image_size=side * side, patch_size=side // 2)
  channels = tuple(options.get("conv_channels", (32, 64)))
  spec = tower.spec | dict(name="hybrid", stem_channels=channels)
  rules = (*_convolutions(), *layers.prefixed("vit.", "", tower.rules))
  return Conversion("model", spec, rules, tuple(f"vit.{name}" for name in tower.ignore))


def _protocol(options) -> Conversion:
  """Fields of config.optimizer: Adam, the rate falls once per epoch."""
  PUBLISHED.word(options, "loss")
  spec = dict(
    name=PUBLISHED.word(options, "optimizer"),
    learning_rate=required(options, "lr"),
    weight_decay=0.0,
    clip_norm=0.0,
    schedule="step",
    decay_every=1.0,
    decay_factor=required(options, "gamma"),
  )
  return Conversion("protocol", spec, ())


CONVERSIONS = {
  "vit.Attention": _normed_attention,
  "deepvit.Attention": _normed_attention,
  "vit.FeedForward": _feed_forward,
  "vit.ViT": _vit,
  "deepvit.DeepViT": _vit,
  "CNN": _cnn,
  "Hybrid": _hybrid,
  "protocol": _protocol,
}

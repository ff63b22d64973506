"""Modules, flavours, options and values of the published Swin code and of its fork."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from convnn_jax.convert.options import (
  FLAG,
  INTEGER,
  INTEGERS,
  LABELS,
  NUMBER,
  NUMBER_OR_NULL,
  SIDES,
  Vocabulary,
)
from convnn_jax.errors import choose, unknown_name


class Flavour(NamedTuple):
  """What a version of the code does, in our words.

  Attributes:
    family: which classes it has: "v1", "v2" or "mlp".
    attention: fields of its attention.
    norm_placement, shift, pre_mlp: of the model.
    per_stage_mlp: whether its option `pre_mlp` is there.
    renamed_tables: whether its tables lie in `rp_affine`.
  """

  family: str
  attention: Mapping[str, Any]
  norm_placement: str = "pre"
  shift: str = "roll"
  pre_mlp: str = "none"
  per_stage_mlp: bool = False
  renamed_tables: bool = False


_V1 = dict(name="window", similarity="dot", relative_bias="table")
_V2 = dict(name="window", similarity="cosine", relative_bias="mlp")


def _fork_v2(**attention):
  return Flavour("v2", _V2 | dict(qk_residual=True) | attention, "post", per_stage_mlp=True)


FLAVOURS = {
  "swin_v1": Flavour("v1", _V1),
  "swin_v2": Flavour("v2", _V2, "post"),
  "swin_mlp": Flavour("mlp", dict(name="spatial_mlp"), shift="pad"),
  "fork_v1": Flavour("v1", _V1 | dict(qk_residual=True, rel_pos_weight="table"), renamed_tables=True),
  "fork_v2 final": _fork_v2(rel_pos_weight="mlp", relative_bias_bound="none"),
  "fork_v2 QK residual only": _fork_v2(),
  "fork_v2 QK residual + raw CPW + 16*sigmoid bias": _fork_v2(rel_pos_weight="mlp"),
  "fork_v2 QK residual + 16*sigmoid CPW": _fork_v2(rel_pos_weight="mlp", rel_pos_weight_bound="sigmoid16"),
}
# What may follow a flavour -> where it has the MLP before attention; None = says nothing about it.
_REMARKS = {
  "": None,
  "weight table all zero": None,
  "weight table all zero = QK residual only": None,
  "single stage of depth 0": None,
  "no Pre MLP": "none",
  "+ Pre MLP": "own",
  "+ Pre MLP per stage": "stage",
}
# class -> families that have it
_CLASSES = {
  "WindowAttention": ("v1", "v2"),
  "SwinTransformerBlock": ("v1", "v2"),
  "PatchMerging": ("v1", "v2", "mlp"),
  "SwinTransformer": ("v1",),
  "SwinTransformerV2": ("v2",),
  "SwinMLPBlock": ("mlp",),
  "SwinMLP": ("mlp",),
}
# Functions; they have no flavour.
_RESIZE = re.compile(r"(relative position bias( table)?|absolute position embedding) bicubic resize($|[ ,;])")

_TYPES = {
  "num_heads": SIDES,
  **dict.fromkeys(("dim", "embed_dim", "patch_size", "in_chans", "num_classes"), INTEGER),
  **dict.fromkeys(("window_size", "img_size", "input_resolution", "shift_size"), SIDES),
  **dict.fromkeys(("pretrained_window_size", "effective_window", "effective_shift"), SIDES),
  **dict.fromkeys(("depths", "pretrained_window_sizes"), INTEGERS),
  **dict.fromkeys(("mlp_ratio", "drop_path_rate", "drop_rate", "attn_drop_rate"), NUMBER),
  **dict.fromkeys(("qkv_bias", "ape", "patch_norm", "pre_mlp"), FLAG),
  "qk_scale": NUMBER_OR_NULL,
}
_LABELS = LABELS | {"mask"}

_ATTENTION = {"dim", "num_heads", "window_size", "qkv_bias", "qk_scale", "pretrained_window_size"}
_BLOCK = _ATTENTION | {"input_resolution", "shift_size", "effective_window", "effective_shift", "mlp_ratio"}
_MODEL = {
  "img_size",
  "patch_size",
  "in_chans",
  "num_classes",
  "embed_dim",
  "depths",
  "num_heads",
  "window_size",
}
_MODEL |= {"mlp_ratio", "qkv_bias", "qk_scale", "drop_rate", "attn_drop_rate", "drop_path_rate", "ape"}
_MODEL |= {"patch_norm", "pretrained_window_sizes", "pre_mlp"}
_MODULES = {
  "WindowAttention": _ATTENTION,
  "SwinTransformerBlock": _BLOCK,
  "SwinMLPBlock": _BLOCK,
  "SwinTransformer": _MODEL,
  "SwinTransformerV2": _MODEL,
  "SwinMLP": _MODEL,
  "PatchMerging": {"dim", "input_resolution"},
  "resize": {"num_heads", "dim", "embed_dim"},
}


PUBLISHED = Vocabulary(_MODULES, {}, _TYPES, _LABELS)


def read_module(module) -> tuple[str, Flavour | None]:
  """Class and flavour from a name such as "SwinTransformer fork_v1 (QK residual + table RPW) + Pre MLP".

  Remarks in parentheses are ignored; "resize" stands for the functions that resize tables.

  Raises:
    UserError: unknown class, flavour, or combination of the two.
  """
  words = str(module)
  if _RESIZE.match(words):
    return "resize", None
  while (shorter := re.sub(r"\s*\([^()]*\)", "", words)) != words:
    words = shorter
  cls, _, rest = words.partition(" ")
  families = choose("published module", cls, _CLASSES)
  found = [name for name in FLAVOURS if re.match(rf"{re.escape(name)}($|[ ;,])", rest)]
  if not found:
    raise unknown_name(f"flavour of the published module '{cls}':", rest, FLAVOURS)
  name = max(found, key=len)
  flavour = FLAVOURS[name]
  if flavour.family not in families:
    legal = [name for name, other in FLAVOURS.items() if other.family in families]
    raise unknown_name(f"flavour of the published module '{cls}':", name, legal)
  for remark in re.split(r"[;,]|(?=no Pre MLP|\+ Pre MLP)", rest[len(name) :]):
    place = choose(f"remark on the published module '{cls} {name}':", remark.strip(), _REMARKS)
    if place is not None:
      flavour = flavour._replace(pre_mlp=_place(flavour, place))
  return cls, flavour


def _place(flavour, place):
  """V1 has one MLP at the stem, V2 one per stage."""
  return ("stage" if flavour.family == "v2" else "stem") if place == "own" else place

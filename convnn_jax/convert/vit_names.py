"""Names of ViT parameters in published checkpoints -> those of timm or of the published JAX code, and back.

Torch files (timm, Hugging Face) are brought to timm's names, JAX files (the published code with the numbering of its
released files or that of today, big_vision) to the published ones of today. Each of the two has its table of rules.
"""

import re
from collections.abc import Mapping

import numpy as np

from convnn_jax.convert import layers, renaming
from convnn_jax.convert.rules import Rule
from convnn_jax.errors import UserError, choose

_HUGGING_FACE = (
  ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
  ("embeddings.cls_token", "cls_token"),
  ("embeddings.position_embeddings", "pos_embed"),
  ("encoder.layer", "blocks"),
  ("layernorm_before", "norm1"),
  ("layernorm_after", "norm2"),
  ("attention.output.dense", "attn.proj"),
  ("attention.attention", "attn"),
  ("intermediate.dense", "mlp.fc1"),
  ("output.dense", "mlp.fc2"),
  ("^layernorm", "^norm"),
  ("^classifier", "^head"),
)
# What newer versions call the modules in memory.
_HUGGING_FACE_MODULES = (
  ("^layers", "^blocks"),
  ("attention.o_proj", "attn.proj"),
  ("attention.q_proj", "attn.query"),
  ("attention.k_proj", "attn.key"),
  ("attention.v_proj", "attn.value"),
)
# Released files count all modules of a block together; today each kind is counted by itself.
_OLD_NUMBERS = {
  "LayerNorm_2": "LayerNorm_1",
  "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
}
_OLD_NUMBERS |= {"MlpBlock_3": "MlpBlock_0"}
_PREFIXES = ("opt/target/", "params/img/", "params/")
_BLOCKS, _POSITIONS = "Transformer/encoderblock", "Transformer/posembed_input/pos_embedding"

# Parts of models that have no place here: what hangs on the class token before the head, and what serves training.
LEFT_OUT = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token")
BEFORE_HEAD = ("pre_logits.fc.weight", "pre_logits.fc.bias", "pre_logits/kernel", "pre_logits/bias")

_PAIRS = (("LayerNorm_0", "norm1"), ("LayerNorm_1", "norm2"))
_LINEAR = (("MlpBlock_0/Dense_0", "mlp/hidden_layer"), ("MlpBlock_0/Dense_1", "mlp/out"))
_HEADS = tuple(
  (f"MultiHeadDotProductAttention_0/{role}", f"attention/{role}") for role in ("query", "key", "value", "out")
)


def jax_rules() -> tuple[Rule, ...]:
  """The published JAX code of today, in which every layout is ours."""
  both = lambda pairs, kind: [
    (f"{there}/{n}", f"{here}/{n}") for there, here in pairs for n in (kind, "bias")
  ]
  block = [*both(_PAIRS, "scale"), *both(_LINEAR, "kernel"), *both(_HEADS, "kernel")]
  outside = [("embedding", "patch_embedding/projection"), ("head", "head")]
  names = [
    *((f"{_BLOCKS}_{{layer}}/{there}", f"block_{{layer}}/{here}") for there, here in block),
    *both(outside, "kernel"),
    *both([("Transformer/encoder_norm", "final_norm")], "scale"),
    ("cls", "class_token"),
  ]
  return (Rule(_POSITIONS, "position_embedding/table", "drop_batch_axis"), *(Rule(*pair) for pair in names))


def torch_rules(final_norm: str = "norm") -> tuple[Rule, ...]:
  """timm; `final_norm` is its name there, "fc_norm" behind a mean."""
  block = (
    *layers.norm("norm1", "norm1"),
    *layers.norm("norm2", "norm2"),
    *layers.prefixed("attn.", "attention/", layers.fused_projections("qkv", "proj")),
    *layers.linear("mlp.fc1", "mlp/hidden_layer"),
    *layers.linear("mlp.fc2", "mlp/out"),
  )
  return (
    Rule("cls_token", "class_token"),
    Rule("pos_embed", "position_embedding/table", "drop_batch_axis"),
    Rule("patch_embed.proj.weight", "patch_embedding/projection/kernel", "conv2d"),
    Rule("patch_embed.proj.bias", "patch_embedding/projection/bias"),
    *layers.prefixed("blocks.{layer}.", "block_{layer}/", block),
    *layers.norm(final_norm, "final_norm"),
    *layers.linear("head", "head"),
  )


def recognised(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
  """The state dict in the names of one of the two tables, and whose it was.

  Returns:
    ..., and "timm" or "huggingface" (for `torch_rules`), "google", "google_linen" or "big_vision" (for `jax_rules`).

  Raises:
    UserError: these are not the names of a ViT.
  """
  given, state, source = state, dict(state), "timm"
  if any("embeddings.patch_embeddings" in name for name in state):
    state, source = _from_hugging_face(state), "huggingface"
  if "patch_embed.proj.weight" in state and any(name.startswith("blocks.") for name in state):
    return state, source
  prefix = next((p for p in _PREFIXES if f"{p}embedding/kernel" in state), "")
  inside = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
  if "embedding/kernel" not in inside or not any(name.startswith(_BLOCKS) for name in inside):
    some = ", ".join(sorted(given)[:5])
    raise UserError(
      f"These are not the names of a ViT of the published code, big_vision, timm or Hugging Face: {some}, ..."
    )
  return _from_jax(inside)


def written(state: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """The inverse of `recognised`, in the names of files.

  Raises:
    UserError: unknown source.
  """
  writers = {
    "timm": dict,
    "huggingface": _to_hugging_face,
    "google": _to_released,
    "google_linen": dict,
    "big_vision": _to_big_vision,
  }
  return choose("source of checkpoints", source, writers)(state)


def _from_hugging_face(state):
  renamed = {}
  for name, array in state.items():
    name = name.removeprefix("vit.")
    if name not in LEFT_OUT:
      name = renaming.replaced(renaming.replaced(name, _HUGGING_FACE_MODULES), _HUGGING_FACE)
    renamed[name] = array
  return renaming.fuse(renamed)


def _to_hugging_face(state):
  table = renaming.inverse(_HUGGING_FACE)
  renamed = {renaming.replaced(name, table): array for name, array in renaming.part(state).items()}
  return {name if name.startswith("classifier.") else f"vit.{name}": a for name, a in renamed.items()}


def _from_jax(state):
  source = "google_linen"
  if any("/MlpBlock_3/" in name for name in state):
    source, state = "google", {_renumbered(name, _OLD_NUMBERS): array for name, array in state.items()}
  if any(name.startswith(f"{_BLOCKS}/") for name in state):
    source, state = "big_vision", _unstacked(state)
  if np.ndim(state.get("pos_embedding")) == 3:
    # Of the patches only: it is added before the class token is put in front.
    table = state.pop("pos_embedding")
    nothing = np.zeros((1, int("cls" in state), table.shape[-1]), table.dtype)
    source, state = "big_vision", {**state, _POSITIONS: np.concatenate([nothing, table], axis=1)}
  return state, source


def _to_big_vision(state):
  state = dict(state)
  table = state.pop(_POSITIONS)
  if "cls" in state:  # the first row belongs to the class token
    state["cls"], table = state["cls"] + table[:, :1], table[:, 1:]
  return {**state, "pos_embedding": table}


def _to_released(state):
  old = {new: old for old, new in _OLD_NUMBERS.items()}
  return {_renumbered(name, old): array for name, array in state.items()}


def _renumbered(name, numbers):
  if not name.startswith(f"{_BLOCKS}_"):
    return name
  return "/".join(numbers.get(part, part) for part in name.split("/"))


def _unstacked(state):
  """Blocks that lie one behind the other along a leading axis."""
  parted = {}
  for name, array in state.items():
    if match := re.match(rf"{_BLOCKS}/(.*)", name):
      parted |= {f"{_BLOCKS}_{layer}/{match[1]}": entry for layer, entry in enumerate(array)}
    else:
      parted[name] = array
  return parted

"""Names of Swin parameters in checkpoints of timm and of Hugging Face -> those of the published code, and back."""

import re
from collections.abc import Mapping

import numpy as np

from convnn_jax.convert import renaming
from convnn_jax.errors import choose

# Parts of Hugging Face's names in files -> the published ones; "^" = at the beginning: other parts of a name may be
# called norm or head, too.
_HUGGING_FACE = (
  ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
  ("embeddings.norm", "patch_embed.norm"),
  ("embeddings.position_embeddings", "absolute_pos_embed"),
  ("encoder.layers", "layers"),
  ("layernorm_before", "norm1"),
  ("layernorm_after", "norm2"),
  ("attention.self.continuous_position_bias_mlp", "attn.cpb_mlp"),
  ("attention.output.dense", "attn.proj"),
  ("attention.self", "attn"),
  ("intermediate.dense", "mlp.fc1"),
  ("output.dense", "mlp.fc2"),
  ("^layernorm", "^norm"),
  ("^classifier", "^head"),
)
# What newer versions call the modules in memory.
_HUGGING_FACE_MODULES = (
  ("attention.relative_position_bias.relative_position_bias_table", "attn.relative_position_bias_table"),
  ("attention.o_proj", "attn.proj"),
  ("attention.q_proj", "attn.query"),
  ("attention.k_proj", "attn.key"),
  ("attention.v_proj", "attn.value"),
)
_PREFIX = re.compile(r"^(swin|swinv2)\.")


def to_published(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
  """A state dict in the published names, and whose it was: "published", "timm" or "huggingface"."""
  if any("embeddings.patch_embeddings" in name for name in state):
    names = {name: renaming.replaced(_PREFIX.sub("", name), _HUGGING_FACE_MODULES) for name in state}
    renamed = {renaming.replaced(names[name], _HUGGING_FACE): array for name, array in state.items()}
    return renaming.fuse(renamed), "huggingface"
  if (
    any(name.startswith("head.fc.") for name in state) or "layers.0.downsample.reduction.weight" not in state
  ):
    renamed = {_move_merging(name, -1).replace("head.fc.", "head."): a for name, a in state.items()}
    if renamed.keys() != state.keys():
      return renamed, "timm"
  return dict(state), "published"


def from_published(state: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
  """The inverse of `to_published`, in the names of files.

  Raises:
    UserError: unknown source.
  """
  writers = {"published": dict, "timm": _to_timm, "huggingface": _to_hugging_face}
  return choose("source of checkpoints", source, writers)(state)


def _move_merging(name, by):
  """timm counts the merging to the stage behind it."""
  stage = re.match(r"layers\.(\d+)\.downsample\.(.*)", name)
  return f"layers.{int(stage[1]) + by}.downsample.{stage[2]}" if stage else name


def _to_timm(state):
  return {re.sub(r"^head\.", "head.fc.", _move_merging(name, 1)): array for name, array in state.items()}


def _to_hugging_face(state):
  version = "swinv2" if any(name.endswith("logit_scale") for name in state) else "swin"
  table = renaming.inverse(_HUGGING_FACE)
  renamed = {renaming.replaced(name, table): array for name, array in renaming.part(state).items()}
  return {
    name if name.startswith("classifier.") else f"{version}.{name}": array for name, array in renamed.items()
  }

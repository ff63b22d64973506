"""Names of Swin parameters in checkpoints of timm and of Hugging Face -> those of the published code, and back."""

import re
from collections.abc import Mapping

import numpy as np

from convnn_jax.errors import choose

# Patterns of Hugging Face's names, of files and (newer, in memory) of modules -> the published ones. The first of two
# that mean the same is the one that is written.
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
  ("layernorm", "norm"),
  ("classifier", "head"),
)
_HUGGING_FACE_MODULES = (
  ("attention.relative_position_bias.relative_position_bias_table", "attn.relative_position_bias_table"),
  ("attention.o_proj", "attn.proj"),
  ("attention.q_proj", "attn.query"),
  ("attention.k_proj", "attn.key"),
  ("attention.v_proj", "attn.value"),
)
_ROLES = ("query", "key", "value")
_PREFIX = re.compile(r"^(swin|swinv2)\.")


def to_published(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
  """A state dict in the published names, and whose it was: "published", "timm" or "huggingface"."""
  if any("embeddings.patch_embeddings" in name for name in state):
    return _fuse({_rename(name): array for name, array in state.items()}), "huggingface"
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


def _rename(name):
  name = _PREFIX.sub("", name)
  for there, here in (*_HUGGING_FACE_MODULES, *_HUGGING_FACE):
    name = re.sub(rf"(^|\.){re.escape(there)}($|\.)", rf"\1{here}\2", name, count=1)
  return name


def _fuse(state):
  """query, key and value one below the other; a bias without that of the key stays apart, as in V2."""
  fused = {
    name: array for name, array in state.items() if name.split(".")[-2:-1] not in ([r] for r in _ROLES)
  }
  for prefix in sorted({name.rpartition(".query.")[0] for name in state if ".query." in name}):
    part = lambda role, kind: state.get(f"{prefix}.{role}.{kind}")  # noqa: B023 - used in this turn
    fused[f"{prefix}.qkv.weight"] = np.concatenate([part(role, "weight") for role in _ROLES])
    if part("key", "bias") is not None:
      fused[f"{prefix}.qkv.bias"] = np.concatenate([part(role, "bias") for role in _ROLES])
    elif part("query", "bias") is not None:
      fused[f"{prefix}.q_bias"], fused[f"{prefix}.v_bias"] = part("query", "bias"), part("value", "bias")
  return fused


def _move_merging(name, by):
  """timm counts the merging to the stage behind it."""
  stage = re.match(r"layers\.(\d+)\.downsample\.(.*)", name)
  return f"layers.{int(stage[1]) + by}.downsample.{stage[2]}" if stage else name


def _to_timm(state):
  return {re.sub(r"^head\.", "head.fc.", _move_merging(name, 1)): array for name, array in state.items()}


def _to_hugging_face(state):
  version = "swinv2" if any(name.endswith("logit_scale") for name in state) else "swin"
  renamed = {}
  for name, array in state.items():
    prefix, _, kind = name.rpartition(".")
    if prefix.endswith(".qkv"):
      base = prefix.removesuffix(".qkv")
      parts = {f"{base}.{role}.{kind}": a for role, a in zip(_ROLES, np.split(array, 3), strict=True)}
    else:
      biases = {"q_bias": "query.bias", "v_bias": "value.bias"}
      parts = {f"{prefix}.{biases[kind]}" if kind in biases else name: array}
    renamed |= {_written(part, version): a for part, a in parts.items()}
  return renamed


def _written(name, version):
  for there, here in _HUGGING_FACE:
    begin = "^()" if here == "norm" else r"(^|\.)"  # other parts of a name may be called norm there, too
    name = re.sub(rf"{begin}{re.escape(here)}($|\.)", rf"\1{there}\2", name, count=1)
  return name if name.startswith("classifier.") else f"{version}.{name}"

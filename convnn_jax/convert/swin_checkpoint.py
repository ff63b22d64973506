"""Swin checkpoints, published, of timm and of Hugging Face, into our parameters and back.

Tables of relative positions and position embeddings are resized where the window or the image is another one:
bicubic, as the published code does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax.convert import swin
from convnn_jax.convert.fitting import (
  any_name,
  check_sizes,
  check_writable,
  complete,
  depth,
  kernel_shape,
  read_with,
)
from convnn_jax.convert.rules import to_source
from convnn_jax.convert.swin_names import from_published, to_published
from convnn_jax.convert.swin_words import Flavour
from convnn_jax.errors import UserError

_PATCHES = "patch_embed.proj.weight"
# Parameters with a value per head, and the axis of heads.
_PER_HEAD = (
  ("attn.logit_scale", 0),
  ("attn.relative_position_bias_table", 1),
  ("attn.rp_affine.relative_position_bias_table", 1),
)


def read_swin(
  state: Mapping[str, np.ndarray], spec: Mapping[str, Any], image: tuple[int, int], shapes
) -> tuple[dict[str, Any], list[str]]:
  """Our parameters from a checkpoint of Swin V1, V2, SwinMLP or the fork on redundancy.

  Args:
    state: its state dict.
    spec: our model's spec, as for make_model.
    image: rows and columns in pixels.
    shapes: our parameters or their shapes.

  Returns:
    The parameters, and a line about each change that was made: resized tables, a new head.

  Raises:
    UserError: names that are not known, parameters without a source, shapes that do not fit.
  """
  spec = complete("swin", spec)
  given, (state, source) = state, to_published(state)
  if _PATCHES not in state or not any_name(state, r"layers\.\d+\."):
    some = ", ".join(sorted(given)[:5])
    raise UserError(
      f"These are not the names of a Swin Transformer of the published code, timm or Hugging Face: {some}, ..."
    )
  lines = [f"read {len(given)} arrays in the names of {source} code", *notes(spec, source)]
  flavour = _flavour(spec, renamed_tables=any("rp_affine" in name for name in state))
  _check(state, spec)
  rules = swin.model_rules(flavour)
  params, more = read_with(rules, state, spec, image, shapes, ignore=swin.MODEL_CONSTANTS)
  return params, lines + more


def write_swin(params, spec: Mapping[str, Any], source: str = "published") -> dict[str, np.ndarray]:
  """A state dict from our parameters, in the names of "published", "timm" or "huggingface" files.

  Raises:
    UserError: unknown source, a model that its code does not compute, or parameters that it has no name for.
  """
  spec = complete("swin", spec)
  flavour = _flavour(spec)
  if source != "published" and _has_residual(spec):
    check_writable(spec, {"attention.qk_residual": (False,)}, source)
  return from_published(to_source(params, swin.model_rules(flavour)), source)


def notes(spec: Mapping[str, Any], source: str) -> list[str]:
  """A line about what no file tells, for a complete spec."""
  residual = spec["attention"].get("qk_residual")
  if residual is None or (source != "published" and not _has_residual(spec)):
    return []
  if source != "published":
    return [f"{source} code has no model.attention.qk_residual; the config has {residual}: logits differ"]
  return [f"the file does not tell model.attention.qk_residual; the config has {residual}"]


def _has_residual(spec):
  """In any of the stages."""
  residual = spec["attention"].get("qk_residual", False)
  return any(residual) if isinstance(residual, (tuple, list)) else bool(residual)


def _check(state, spec) -> None:
  """Sizes and version, before names are translated one by one."""
  mixing = r"layers\.\d+\.blocks\.\d+\.spatial_mlp\."
  if any_name(state, mixing) != (spec["attention"]["name"] == "spatial_mlp"):
    there, config = ("SwinMLP", "swin_mlp_t") if any_name(state, mixing) else ("Swin Transformer", "swin_t")
    raise UserError(
      f"The checkpoint is a {there}, the config's attention.name is '{spec['attention']['name']}'; start from"
      f" configs/{config}.py."
    )
  patches = kernel_shape(state, _PATCHES)
  stages = range(depth(state, r"layers\.(\d+)\."))
  found = {"width": patches[0], "patch_size": patches[2]}
  found["depths"] = tuple(depth(state, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in stages)
  found |= _version(state) | _ratio(state, spec)
  heads = tuple(_heads(state, f"layers.{stage}.blocks.0.") for stage in stages)
  ours = spec["attention"].get("num_heads")
  if all(heads) and heads != (tuple(ours) if isinstance(ours, (tuple, list)) else (ours,) * len(heads)):
    found["attention.num_heads"] = heads
  check_sizes(found, spec)


def _heads(state, block) -> int:
  """Of a block; 0 if nothing shows them."""
  for name, axis in _PER_HEAD:
    if len(shape := np.shape(state.get(block + name))) > axis:
      return shape[axis]
  # A row per head and position, a column per position.
  mixing = np.shape(state.get(f"{block}spatial_mlp.weight"))
  return mixing[0] // mixing[1] if len(mixing) == 3 and mixing[1] else 0


def _ratio(state, spec):
  """The MLPs' ratio, if theirs are not as wide as the config's."""
  hidden = np.shape(state.get("layers.0.blocks.0.mlp.fc1.weight"))
  if len(hidden) != 2 or not hidden[1] or hidden[0] == int(hidden[1] * spec["mlp_ratio"]):
    return {}
  return {"mlp_ratio": hidden[0] / hidden[1]}


def _version(state):
  """What tells V1 from V2."""
  if any_name(state, r".*\.spatial_mlp\."):
    return {}
  cosine = any_name(state, r".*\.logit_scale$")
  found = {"attention.similarity": "cosine" if cosine else "dot"}
  if any_name(state, r".*\.cpb_mlp\."):
    found["attention.relative_bias"] = "mlp"
  elif any_name(state, r".*relative_position_bias_table$"):
    found["attention.relative_bias"] = "table"
  norm, reduction = (np.shape(state.get(f"layers.0.downsample.{n}.weight")) for n in ("norm", "reduction"))
  if norm and len(reduction) == 2:  # of the merged channels, or of the reduced
    found["norm_placement"] = "post" if norm[0] == reduction[0] else "pre"
  return found


def _flavour(spec, *, renamed_tables=False):
  attention = {"name": spec["attention"]["name"], "similarity": spec["attention"].get("similarity", "dot")}
  if attention["name"] not in ("window", "spatial_mlp"):
    raise UserError(
      f"Checkpoints of Swin hold window attention or a spatial MLP, not attention.name='{attention['name']}'."
    )
  return Flavour("", attention, renamed_tables=renamed_tables)

"""Swin checkpoints, published, of timm and of Hugging Face, into our parameters and back.

Tables of relative positions and position embeddings are resized where the window or the image is another one:
bicubic, as the published code does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax.convert import swin
from convnn_jax.convert.fitting import read_with
from convnn_jax.convert.rules import to_source
from convnn_jax.convert.swin_names import from_published, to_published
from convnn_jax.convert.swin_words import Flavour
from convnn_jax.errors import UserError


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
  state, source = to_published(state)
  lines = [f"read {len(state)} arrays in the names of {source} code"]
  flavour = _flavour(spec, renamed_tables=any("rp_affine" in name for name in state))
  rules = swin.model_rules(flavour)
  params, more = read_with(rules, state, spec, image, shapes, ignore=swin.MODEL_CONSTANTS)
  return params, lines + more


def write_swin(params, spec: Mapping[str, Any], source: str = "published") -> dict[str, np.ndarray]:
  """A state dict from our parameters, in the names of "published", "timm" or "huggingface" files."""
  return from_published(to_source(params, swin.model_rules(_flavour(spec))), source)


def _flavour(spec, *, renamed_tables=False):
  attention = {"name": spec["attention"]["name"], "similarity": spec["attention"].get("similarity", "dot")}
  if attention["name"] not in ("window", "spatial_mlp"):
    raise UserError(
      f"Checkpoints of Swin hold window attention or a spatial MLP, not attention.name='{attention['name']}'."
    )
  return Flavour("", attention, renamed_tables=renamed_tables)

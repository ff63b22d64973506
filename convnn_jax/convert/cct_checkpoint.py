"""Checkpoints of the published compact transformers (CCT, CVT, ViT-Lite) into our parameters and back."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax.convert import sot_cct
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
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import TABLES
from convnn_jax.models import transfer

_CONVOLUTION = r"tokenizer\.conv_layers\.\d+\.0\.weight$"


def read_cct(
  state: Mapping[str, np.ndarray], spec: Mapping[str, Any], image: tuple[int, int], shapes
) -> tuple[dict[str, Any], list[str]]:
  """Our parameters from a checkpoint of a compact transformer.

  Args:
    state: its state dict.
    spec: our model's spec, as for make_model.
    image: rows and columns in pixels.
    shapes: our parameters or their shapes.

  Returns:
    The parameters, and a line about each thing that was changed: resized positions, a new head.

  Raises:
    UserError: names that are not known, parameters without a source, shapes that do not fit.
  """
  spec = complete("cct", spec)
  if not any_name(state, _CONVOLUTION):
    some = ", ".join(sorted(state)[:5])
    raise UserError(f"These are not the names of a CCT, CVT or ViT-Lite of the published code: {some}, ...")
  _check(state, spec)
  lines = [f"read {len(state)} arrays in the names of published code"]
  if heads := spec["attention"].get("num_heads"):
    lines.append(f"the file does not tell the number of heads; the config has {heads}")
  fixed = spec["position_embedding"] != "learned"
  if fixed:
    lines += _fixed_positions(state.get(sot_cct.POSITIONS), spec)
  params, more = read_with(
    sot_cct.model_rules(), state, spec, image, shapes, ignore=(sot_cct.POSITIONS,) if fixed else ()
  )
  return params, lines + more


def write_cct(params, spec: Mapping[str, Any], image: tuple[int, int]) -> dict[str, np.ndarray]:
  """A state dict from our parameters, in the published names.

  Args:
    params: of the model.
    spec: its spec.
    image: rows and columns in pixels, for fixed positions, which are stored there.

  Raises:
    UserError: an attention that no published code has, or parameters that have no name there.
  """
  spec = complete("cct", spec)
  check_writable(spec, {"attention.name": ("softmax", "sot")}, "published")
  state = to_source(params, sot_cct.model_rules())
  if spec["position_embedding"] in TABLES:
    count = math.prod(transfer.token_grid(spec, image)) + transfer.num_prefix(spec)
    state[sot_cct.POSITIONS] = TABLES[spec["position_embedding"]](count, spec["width"])[None]
  return state


def _fixed_positions(table, spec) -> list[str]:
  """Whether the stored table is the constant that the model has."""
  word = spec["position_embedding"]
  if table is None:
    return []
  if word not in TABLES or not np.allclose(table[0], TABLES[word](*table.shape[1:]), atol=1e-4):
    raise UserError(
      f"The checkpoint has positions that model.position_embedding={word} does not compute (published variants called"
      " _sine may have learned ones); give --config.model.position_embedding=learned."
    )
  return []


def _check(state, spec) -> None:
  stages = sorted(name for name in state if re.match(_CONVOLUTION, name))
  kernels = [kernel_shape(state, name) for name in stages]
  first, last = kernels[0], kernels[-1]
  block = r"classifier\.blocks\.(\d+)\."
  found = {"width": last[0]}
  if hidden := np.shape(state.get("classifier.blocks.0.linear1.weight")):
    found["mlp_dim"] = hidden[0]
  bias = f"{stages[0].removesuffix('weight')}bias" in state  # only patches have one
  found["attention.qkv_bias"] = any_name(state, rf"{block}self_attn\.qkv\.bias")
  found["tokenizer"] = "patches" if bias else "convolution"
  found |= {"patch_size": first[2]} if bias else {"kernel_size": first[2], "num_convolutions": len(stages)}
  if any_name(state, r"classifier\.attention_pool\."):
    found["pooling"] = "sequence"
  elif "classifier.class_emb" in state:
    found["pooling"] = "cls"
  check_sizes(found | dict(depth=depth(state, block)), spec)

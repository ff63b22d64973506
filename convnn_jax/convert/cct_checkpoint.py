"""Checkpoints of the published compact transformers (CCT, CVT, ViT-Lite) into our parameters and back."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax import registry
from convnn_jax.convert import sot_cct
from convnn_jax.convert.fitting import check_sizes, read_with
from convnn_jax.convert.rules import to_source
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import TABLES
from convnn_jax.models import model_class, transfer


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
  spec = registry.defaults(model_class("cct")) | dict(spec)
  if not any(name.startswith("tokenizer.conv_layers.") for name in state):
    some = ", ".join(sorted(state)[:5])
    raise UserError(f"These are not the names of a CCT, CVT or ViT-Lite of the published code: {some}, ...")
  _check(state, spec)
  lines = [f"read {len(state)} arrays in the names of published code"]
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
    UserError: parameters that have no name there.
  """
  spec = registry.defaults(model_class("cct")) | dict(spec)
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
  stages = sorted(name for name in state if name.startswith("tokenizer.conv_layers.") and "weight" in name)
  first, last = state[stages[0]].shape, state[stages[-1]].shape
  found = {"width": last[0]}
  if "classifier.blocks.0.linear1.weight" in state:
    found["mlp_dim"] = state["classifier.blocks.0.linear1.weight"].shape[0]
  bias = f"{stages[0].removesuffix('weight')}bias" in state  # only patches have one
  found["attention.qkv_bias"] = "classifier.blocks.0.self_attn.qkv.bias" in state
  found["tokenizer"] = "patches" if bias else "convolution"
  found |= {"patch_size": first[2]} if bias else {"kernel_size": first[2], "num_convolutions": len(stages)}
  found["pooling"] = "sequence" if "classifier.attention_pool.weight" in state else "cls"
  check_sizes(found, spec, state, r"classifier\.blocks\.(\d+)\.")

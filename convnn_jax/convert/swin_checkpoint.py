"""Swin checkpoints, published, of timm and of Hugging Face, into our parameters and back.

Tables of relative positions and position embeddings are resized where the window or the image is another one:
bicubic, as the published code does.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax.convert import swin
from convnn_jax.convert.rules import flat, nested, to_flax, to_source
from convnn_jax.convert.swin_names import from_published, to_published
from convnn_jax.convert.swin_words import Flavour
from convnn_jax.errors import UserError
from convnn_jax.ops.resize import resize_table
from convnn_jax.ops.windows import fit_window, pair

_TABLES = ("relative_position_bias_table", "relative_position_weight_table")


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
  state = _resize(state, spec, image, lines)
  wanted = flat(shapes)
  new_head = _new_head(state, wanted, lines)
  rest = {path: leaf for path, leaf in wanted.items() if path not in new_head}
  if new_head:
    state = {name: array for name, array in state.items() if not name.startswith("head.")}
  flavour = _flavour(spec, renamed_tables=any("rp_affine" in name for name in state))
  params = to_flax(state, swin.model_rules(flavour), nested(rest), ignore=swin.MODEL_CONSTANTS)
  return nested(flat(params) | new_head), lines


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


def _resize(state, spec, image, lines):
  resized = dict(state)
  side = spec.get("patch_size", 4)
  grid = (image[0] // side, image[1] // side)
  window = pair("model.window_size", spec.get("window_size", 7))
  for name, array in state.items():
    parts = name.split(".")
    if parts[-1] in _TABLES:
      stage = int(parts[1])
      new, _ = fit_window((grid[0] // 2**stage, grid[1] // 2**stage), window, (0, 0))
      sides, unit = tuple(2 * length - 1 for length in new), lambda length: (length + 1) // 2
      resized[name] = _fit(array, sides, name, lines, unit)
    elif parts[-1] == "absolute_pos_embed":
      resized[name] = _fit(array[0], grid, name, lines, lambda length: length)[None]
  return resized


def _fit(table, new, name, lines, unit):
  """The table at its new sides, with a line that says so."""
  if len(table) == new[0] * new[1]:
    return table
  side = round(len(table) ** 0.5)
  if side * side != len(table):
    raise UserError(
      f"{name} has {len(table)} rows, which is no square, and cannot be resized to {new[0]} x {new[1]}."
    )
  lines.append(
    f"{name}: resized from {unit(side)} x {unit(side)} to {unit(new[0])} x {unit(new[1])} (bicubic)"
  )
  return np.asarray(resize_table(table.astype(np.float32), (side, side), new))


def _new_head(state, wanted, lines):
  """Zeros for a head that the checkpoint does not have, or has for other classes; else nothing."""
  head = {path: leaf for path, leaf in wanted.items() if path.startswith("head/")}
  there, here = state.get("head.bias"), head.get("head/bias")
  if here is None or (there is not None and there.shape == tuple(here.shape)):
    return {}
  found = "none" if there is None else f"{len(there)} classes"
  lines.append(f"head: {found} there, {here.shape[0]} here; it starts from zero")
  return {path: np.zeros(leaf.shape, np.float32) for path, leaf in head.items()}

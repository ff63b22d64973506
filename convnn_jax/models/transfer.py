"""Parameters of one model in another: position tables are resized, a head for other classes starts anew.

Everything else must have the same names and shapes. Both checkpoints of other code (convnn_jax/convert) and runs
(`init_from`) come this way.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from convnn_jax import registry
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import resize_positions
from convnn_jax.models import model_class
from convnn_jax.models.cct import token_grid as compact_grid
from convnn_jax.models.readout import POOLINGS
from convnn_jax.ops.resize import resize_table
from convnn_jax.ops.windows import fit_window, pair

POSITIONS = "position_embedding/table"
HEAD = ("head/kernel", "head/bias")
_RELATIVE = re.compile(r"(?:stage_(\d+)/)?.*/(relative_bias_table|rel_pos_weight_table)")


class Change(NamedTuple):
  """What is done to a parameter on its way.

  Attributes:
    text: what is said about it.
    apply: the array there (None if there is none) -> the array here.
  """

  text: str
  apply: Callable[[np.ndarray | None], np.ndarray]


def may_differ(path: str) -> bool:
  """Whether a parameter's shape may be another one there: tables over positions, and the head."""
  return path == POSITIONS or path in HEAD or bool(_RELATIVE.fullmatch(path))


def plan(there: Mapping[str, Any], here: Mapping[str, Any], spec: Mapping[str, Any], image: tuple[int, int]):
  """What has to change; nothing is computed.

  Args:
    there: path -> anything with the shape of a parameter that is given.
    here: path -> the same of the model.
    spec: of the model.
    image: its rows and columns in pixels.

  Returns:
    (path -> Change, lines about what does not fit).

  Raises:
    UserError: a table that cannot be resized.
  """
  spec = registry.defaults(model_class(spec["name"])) | dict(spec)
  old = {path: tuple(leaf.shape) for path, leaf in there.items()}
  new = {path: tuple(leaf.shape) for path, leaf in here.items()}
  changes = _head(old, new)
  problems = [f"{path} {shape} is only there" for path, shape in old.items() if path not in new]
  for path, shape in new.items():
    if path in changes or old.get(path) == shape:
      continue
    if path not in old:
      problems.append(f"{path} {shape} is not there")
    elif (change := _table(path, old[path], shape, spec, image)) is not None:
      changes[path] = change
    else:
      problems.append(f"{path} is {old[path]} there, {shape} here")
  return changes, problems


def fit(params: Mapping[str, np.ndarray], here, spec, image) -> tuple[dict[str, np.ndarray], list[str]]:
  """Parameters by path in the shapes of the model, and a line about each change; arguments as for `plan`.

  Raises:
    UserError: they do not fit.
  """
  changes, problems = plan(params, here, spec, image)
  if problems:
    raise UserError(f"The checkpoint and the model do not fit: {'; '.join(problems)}.")
  fitted = {path: changes[path].apply(params.get(path)) if path in changes else params[path] for path in here}
  return fitted, lines(changes)


def lines(changes: Mapping[str, Change]) -> list[str]:
  """One line for all parameters of a name with which the same is done."""
  groups: dict[tuple[str, str], list[str]] = {}
  for path, change in changes.items():
    groups.setdefault((path.rpartition("/")[2] if _RELATIVE.fullmatch(path) else "", change.text), []).append(
      path
    )
  more = lambda paths: f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else paths[0]
  return [
    f"head: {text}" if paths[0] in HEAD else f"{more(paths)}: {text}" for (_, text), paths in groups.items()
  ]


def _head(old, new) -> dict[str, Change]:
  """Zeros for a head that is not there, or is there for other classes."""
  bias, kernel = "head/bias", "head/kernel"
  if bias not in new or old.get(bias) == new[bias]:
    return {}
  if (bias in old) != (kernel in old) or len(old.get(bias, new[bias])) != 1:
    return {}  # one of the two is lost
  if kernel in old and kernel in new and old[kernel][:-1] != new[kernel][:-1]:
    return {}  # of another width: another model
  found = f"{old[bias][0]} classes" if bias in old else "none"
  text = f"{found} there, {new[bias][0]} here; it starts from zero"
  zeros = lambda shape: lambda array: np.zeros(shape, np.float32)
  return {path: Change(text, zeros(new[path])) for path in HEAD if path in new}


def _table(path, old, new, spec, image) -> Change | None:
  """The resizing of a table; None if this parameter is none, or is of another width."""
  relative = _RELATIVE.fullmatch(path)
  if old[1:] != new[1:] or len(new) != 2:
    return None
  if path == POSITIONS and not spec.get("num_positions"):
    return _positions(path, old, token_grid(spec, image), num_prefix(spec), spec)
  if relative and spec["name"] == "swin":
    grid = tuple(side // 2 ** int(relative[1] or 0) for side in token_grid(spec, image))
    window, _ = fit_window(grid, pair("model.window_size", spec["window_size"]), (0, 0))
    side = _square(path, old[0])
    sides = tuple(2 * length - 1 for length in window)
    was = (side + 1) // 2
    text = f"resized from {was} x {was} to {window[0]} x {window[1]} (bicubic)"
    return Change(text, lambda array: _bicubic(array, (side, side), sides))
  return None


def _positions(path, old, grid, prefix, spec) -> Change:
  side = _square(path, old[0] - prefix)
  if spec["name"] == "cct":  # as the published loader does
    resize, rule = lambda array: resize_positions(array, (side, side), grid, prefix), "bilinear"
  else:
    keep = lambda array: [array[:prefix], _bicubic(array[prefix:], (side, side), grid)]
    resize, rule = lambda array: np.concatenate(keep(array)), "bicubic"
  text = f"resized from {side} x {side} to {grid[0]} x {grid[1]} ({rule})"
  return Change(text, lambda array: np.asarray(resize(array)))


def _bicubic(array, old, new):
  return np.asarray(resize_table(np.asarray(array, np.float32), old, new))


def _square(path, rows) -> int:
  side = round(max(rows, 0) ** 0.5)
  if not side or side * side != rows:
    raise UserError(
      f"{path} has rows for {rows} positions there, which is no square, and cannot be resized; choose the"
      " data.image_size that it was made for."
    )
  return side


def num_prefix(spec: Mapping[str, Any]) -> int:
  """Class tokens in front of the patches."""
  if spec["name"] == "cct":
    return int(spec["pooling"] == "cls")
  return int(POOLINGS[spec["pooling"]]) if "pooling" in spec else 0


def token_grid(spec: Mapping[str, Any], image: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns of the tokens of an image."""
  if spec["name"] == "cct":
    return compact_grid(spec, image)
  if spec["name"] == "hybrid":
    image = tuple((side - 4) // 2 for side in image)
  p, q = pair("model.patch_size", spec["patch_size"] or max(image[0] // 2, 1))
  return (image[0] // p, image[1] // q)

"""What reading a checkpoint of any family ends with: sizes compared, names translated, tables and head fitted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convnn_jax.convert.rules import Rule, flat, nested, to_flax
from convnn_jax.errors import UserError
from convnn_jax.models import transfer


def read_with(
  rules: Sequence[Rule],
  state: Mapping[str, np.ndarray],
  spec: Mapping[str, Any],
  image: tuple[int, int],
  shapes,
  *,
  ignore: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
  """Our parameters, and a line about each one that was resized or starts anew.

  Args:
    rules: of the source.
    state: its state dict.
    spec: of our model.
    image: rows and columns in pixels.
    shapes: our parameters or their shapes.
    ignore: names there that have no counterpart here.

  Raises:
    UserError: names that are not known, parameters without a source, shapes that do not fit.
  """
  params = to_flax(state, rules, shapes, ignore=ignore, optional=transfer.HEAD, any_shape=transfer.may_differ)
  fitted, lines = transfer.fit(flat(params), flat(shapes), spec, image)
  return nested(fitted), lines


def left_out(
  state: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
  """The state dict without these names, and a line if it had any of them."""
  gone = sorted(name for name in state if name in names)
  line = [f"left out, as the model has no place for it: {', '.join(gone)}"] if gone else []
  return {name: array for name, array in state.items() if name not in names}, line


def check_sizes(found: Mapping[str, Any], spec: Mapping[str, Any], state, block: str) -> None:
  """Compares a checkpoint's sizes with the config's before names are translated, where one difference is hundreds.

  Args:
    found: field of the model, with dots for the attention's -> its value there.
    spec: of our model.
    state: the state dict.
    block: a pattern of names whose first group is a block's number; depth is compared by it.

  Raises:
    UserError: they differ; names the overrides that make the config fit.
  """
  numbers = [int(match[1]) for name in state if (match := re.match(block, name))]
  found = {**found, "depth": max(numbers, default=-1) + 1}
  wrong = {}
  for field, value in found.items():
    here = spec
    for part in field.split("."):
      here = here.get(part) if isinstance(here, Mapping) else None
    if here is not None and here != value:
      wrong[field] = value
  if wrong:
    words = " ".join(f"--config.model.{field}={value}" for field, value in wrong.items())
    raise UserError(f"The checkpoint is a model of another size than the config's; it needs {words}.")

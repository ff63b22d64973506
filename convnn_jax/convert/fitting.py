"""What reading a checkpoint of any family ends with: sizes compared, names translated, tables and head fitted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convnn_jax import registry
from convnn_jax.attention import attention_class
from convnn_jax.convert.rules import Rule, flat, nested, to_flax
from convnn_jax.errors import UserError
from convnn_jax.models import model_class, transfer


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


def complete(model: str, spec: Mapping[str, Any]) -> dict[str, Any]:
  """The spec with the defaults of the model and of its attention."""
  spec = registry.defaults(model_class(model)) | dict(spec)
  attention = dict(spec["attention"])
  return spec | dict(attention=registry.defaults(attention_class(attention["name"])) | attention)


def kernel_shape(state: Mapping[str, np.ndarray], name: str) -> tuple[int, ...]:
  """Shape of a kernel of patches or of a convolution.

  Raises:
    UserError: it is none.
  """
  shape = np.shape(state[name])
  if len(shape) != 4:
    raise UserError(
      f"{name} has shape {shape}, but a kernel of a convolution has four axes; this is the checkpoint of another kind"
      " of model, or it is damaged."
    )
  return shape


def depth(state: Mapping[str, np.ndarray], block: str) -> int:
  """Number of blocks; the first group of `block`, a pattern of the beginning of names, is a block's number."""
  return max((int(match[1]) for name in state if (match := re.match(block, name))), default=-1) + 1


def any_name(state: Mapping[str, np.ndarray], pattern: str) -> bool:
  """Whether a name begins as the pattern says."""
  return any(re.match(pattern, name) for name in state)


def check_sizes(found: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
  """Compares a checkpoint's sizes with the config's before names are translated, where one difference is hundreds.

  Args:
    found: field of the model, with dots for the attention's -> its value there.
    spec: of our model.

  Raises:
    UserError: they differ; names the overrides that make the config fit.
  """
  wrong = {field: value for field, value in found.items() if _differs(_value(spec, field), value)}
  if wrong:
    words = " ".join(f"--config.model.{field}={_word(value)}" for field, value in wrong.items())
    raise UserError(f"The checkpoint is a model of another size than the config's; it needs {words}.")


def check_writable(spec: Mapping[str, Any], legal: Mapping[str, Sequence[Any]], source: str) -> None:
  """Refuses a model that no file of a source's can hold, as its code would compute something else from it.

  Args:
    spec: of our model.
    legal: field of the model, with dots for the attention's -> its values there.
    source: whose names.

  Raises:
    UserError: another value.
  """
  wrong = [field for field in legal if _value(spec, field) not in legal[field]]
  if wrong:
    have = ", ".join(f"model.{field}={_value(spec, field)}" for field in wrong)
    need = " and ".join(f"{field}={' or '.join(map(str, legal[field]))}" for field in wrong)
    raise UserError(
      f"The names of {source} code do not hold a model with {have}: its code would compute something else. Write one"
      f" with {need}."
    )


def _differs(ours, theirs):
  """Of a field that the config does not have, or has a value per stage for, one value says nothing."""
  return ours is not None and ours != theirs and isinstance(ours, tuple) <= isinstance(theirs, tuple)


def _value(spec, field):
  """The value of a field, with dots; a list is a tuple."""
  for part in field.split("."):
    spec = spec.get(part) if isinstance(spec, Mapping) else None
  return tuple(spec) if isinstance(spec, list) else spec


def _word(value):
  """A value as a flag takes it, without signs that a shell reads."""
  if isinstance(value, tuple):
    return ",".join(map(str, value)) if len(value) > 1 else f"'({value[0]},)'"
  return f"{value:g}" if isinstance(value, float) else value

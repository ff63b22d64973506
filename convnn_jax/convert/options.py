"""Options of foreign modules, checked against what is known: nothing is guessed and nothing is passed over."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from convnn_jax.convert.rules import Rule
from convnn_jax.errors import UserError, choose, unknown_name

FLAG, INTEGER, NUMBER = "true or false", "an integer", "a number"
NUMBER_OR_NULL, INTEGER_OR_NULL, FLAG_OR_NULL = (
  "a number or null",
  "an integer or null",
  "true, false or null",
)
NUMBER_OR_OFF = "a number or 'off'"
INTEGER_OR_TWO, TWO_INTEGERS, SIZES = "an integer or two integers", "two integers", "three integers"
SIDES, INTEGERS = "an integer or several", "a list of integers"
OPTIONS, OPTIONS_OR_NULL = "options by name", "options by name or null"
# Descriptions of a case, in any family; they change nothing in evaluation.
LABELS = frozenset(
  (
    "module",
    "case",
    "note",
    "seed",
    "source",
    "inputs",
    "upstream_commit",
    "commit",
    "unused_params",
    "min_topk_gap",
  )
)


class NotOffered(UserError):
  """A feature of a published module that is left out on purpose; the message says why."""


class Conversion(NamedTuple):
  """How a published module is built here.

  Attributes:
    kind: "attention" (for make_attention), "model" (for make_model), the fields of a class: "multi_head", "block",
      "swin_block", "merging", "encoder_layer", "decoder_layer", "encoder", "decoder", "transformer"; a LayerNorm `norm`
      in front of another module: "normed_attention", "normed_mlp"; without parameters: "scores" (fields of
      local_scores), "resize" (of resize_table), "function" (its name and options), "protocol" (a training run:
      optimiser fields).
    spec: the spec or fields.
    rules: its parameters.
    ignore: names in its state dict without a counterpart: constants and weights that it never uses.
  """

  kind: str
  spec: dict[str, Any]
  rules: tuple[Rule, ...]
  ignore: tuple[str, ...] = ()


class Vocabulary(NamedTuple):
  """What a family of published modules understands.

  Attributes:
    modules: module -> its options.
    words: option -> published word -> ours.
    types: option -> one of the types above.
    labels: descriptions that change nothing in evaluation.
  """

  modules: Mapping[str, set[str]]
  words: Mapping[str, Mapping[str, str]]
  types: Mapping[str, str]
  labels: set[str]

  def check(self, options: Mapping[str, Any]) -> None:
    """Raises UserError for a module, an option or a value that is not known."""
    module = options.get("module")
    allowed = choose("published module", module, self.modules)
    for option, value in options.items():
      if option in self.labels:
        continue
      if option not in allowed:
        raise unknown_name(f"option of the published module '{module}':", option, allowed)
      if option in self.words:
        self.word(options, option)
      elif not _has_type(value, self.types[option]):
        raise UserError(f"The published option {option}={value!r} must be {self.types[option]}.")

  def word(self, options: Mapping[str, Any], option: str, default: str | None = None) -> str:
    """Our word for the value of `option`; `default` is one of the published words.

    A remark in parentheses behind a word is ignored: "n/a (no head split)".
    """
    value = str(options.get(option, default)).split(" (")[0]
    return choose(f"value of the published option {option}:", value, self.words[option])


def _has_type(value, wanted):
  if wanted.endswith(" or null") and value is None:
    return True
  integer = isinstance(value, int) and not isinstance(value, bool)
  if wanted in (FLAG, FLAG_OR_NULL):
    return isinstance(value, bool)
  if wanted in (SIDES, INTEGERS) and not integer:
    return isinstance(value, Sequence) and all(_has_type(v, INTEGER) for v in value)
  if wanted in (SIZES, TWO_INTEGERS, INTEGER_OR_TWO) and not integer:
    several = isinstance(value, Sequence) and all(_has_type(v, INTEGER) for v in value)
    return several and len(value) == (3 if wanted == SIZES else 2)
  if wanted == NUMBER_OR_OFF and value == "off":
    return True
  if wanted in (OPTIONS, OPTIONS_OR_NULL):
    return isinstance(value, Mapping)
  if integer:
    return wanted not in (SIZES, TWO_INTEGERS, INTEGERS)
  return isinstance(value, float) and wanted in (NUMBER, NUMBER_OR_NULL, NUMBER_OR_OFF)


def required(options: Mapping[str, Any], option: str):
  """The value of an option without a default.

  Raises:
    UserError: it is not given.
  """
  if option not in options:
    raise UserError(f"The published module '{options['module']}' needs the option {option} here.")
  return options[option]

"""Overrides of names: another model or attention in place of a config's own, with the fields that both have."""

import contextlib
import pathlib
import re
from collections.abc import Mapping, Sequence

from convnn_jax import registry
from convnn_jax.attention import attention_class
from convnn_jax.errors import UserError
from convnn_jax.models import model_class
from convnn_jax.training import config_file


def join_values(overrides: Sequence[str]) -> list[str]:
  """["--config.a", "1"] -> ["--config.a=1"]; anything that is no override is an error."""
  words: list[str] = []
  for word in overrides:
    if word.startswith("--config."):
      words.append(word)
    elif words and "=" not in words[-1]:
      words[-1] += f"={word}"
    else:
      raise UserError(f"Unknown argument '{word}'. Fields of the config are set by --config.FIELD=VALUE.")
  for word in words:
    if "=" not in word:
      raise UserError(f"{word} has no value; write {word}=VALUE.")
  return words


def exchange_members(config: dict, words: Sequence[str]) -> dict:
  """Handles overrides of model.name and of attentions' names at any depth: a new member with its own fields."""
  for word in sorted((w for w in words if w.split("=", 1)[0].endswith(".name")), key=lambda w: w.count(".")):
    path, new = word.removeprefix("--config.").split("=", 1)
    *parents, leaf, _ = path.split(".")
    here = _section(config, parents)
    if here.get(leaf) is None:
      here.update(_default_member(here, parents, leaf))
    if path.split(".")[0] != "model" or not isinstance(here.get(leaf), dict):
      continue
    if here[leaf].get("name") == new:
      continue
    fields = registry.spec_fields(model_class(new) if leaf == "model" else attention_class(new))
    here[leaf] = {k: v for k, v in here[leaf].items() if k in fields} | {"name": new}
  return config


def _section(config: dict, path: Sequence[str]) -> dict:
  """The section at a path; {} where there is none."""
  for part in path:
    config = config.get(part)
    if not isinstance(config, dict):
      return {}
  return config


def _default_member(here: dict, parents: Sequence[str], leaf: str) -> dict:
  """{leaf: spec} where `here` may hold a member that its config does not name; {} elsewhere."""
  if parents == ["model"]:
    holds = leaf == "attention" and leaf in registry.spec_fields(model_class(here.get("name", "")))
    return {leaf: {}} if holds else {}
  if parents[:2] == ["model", "attention"] and here:
    default = registry.defaults(attention_class(here.get("name", ""))).get(leaf)
    return {leaf: dict(default)} if isinstance(default, Mapping) else {}
  return {}


@contextlib.contextmanager
def explaining(path: str, overrides: Sequence[str]):
  """Adds to a UserError about a member that was exchanged where the value comes from, and the flag that sets it.

  Args:
    path: the config file, as for config.load.
    overrides: as for config.load.
  """
  try:
    yield
  except UserError as error:
    hints = _origins(str(error), path, overrides)
    if not hints:
      raise
    raise UserError(" ".join([str(error), *hints])) from error


def _origins(message: str, path: str, overrides: Sequence[str]) -> list[str]:
  """A sentence for each value in the message that nobody gave to the new member."""
  words = join_values(overrides)
  file, _, argument = path.partition(":")
  load = lambda: config_file.get_config(pathlib.Path(file), argument).to_dict()
  old, new = load(), exchange_members(load(), words)
  hints = []
  for word in words:
    flag, name = word.split("=", 1)
    *parents, last = flag.removeprefix("--config.").split(".")
    before, after = _section(old, parents), _section(new, parents)
    if last != "name" or parents[:1] != ["model"] or not after or before.get("name") == name:
      continue
    member = model_class(name) if parents == ["model"] else attention_class(name)
    for field, default in registry.defaults(member).items():
      value, setter = after.get(field, default), f"{flag.removesuffix('name')}{field}"
      if any(w.startswith(f"{setter}=") for w in words) or not _mentions(message, field, value):
        continue
      carried = (
        f"was carried over from '{before.get('name')}'" if field in after else f"is the default of '{name}'"
      )
      hints.append(f"{field}={value!r} {carried}; give another by {setter}=VALUE.")
  return hints


def _mentions(message: str, field: str, value) -> bool:
  """Whether there is "field=value" or "field 'value'" in it."""
  return bool(re.search(rf"(?<!\w){re.escape(field)}[= ]'?{re.escape(str(value))}(?!\w)", message))

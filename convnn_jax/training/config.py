"""From a config file and command-line overrides to one locked ConfigDict, and back to JSON.

Overrides look like --config.optimizer.learning_rate=3e-4. The spec of the model and of the attention are
completed with the defaults of the chosen class, so every field can be overridden and a saved config is
complete. --config.model.attention.name=NAME exchanges the attention: fields that the new one has too keep
their value, the others go. --config.model.name=NAME exchanges the model in the same way; one without attention has no
such section, and one with attention that comes from such a model needs --config.model.attention.name=NAME, too.
"""

import importlib
import json
import math
import pathlib
import re
import typing
from collections.abc import Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from convnn_jax import registry
from convnn_jax.attention import attention_class
from convnn_jax.attention.per_stage import is_per_stage
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.models import model_class
from convnn_jax.training import config_file, exchange

# Where the data lie does not change what is computed: a run may be moved. Nor does how it is computed.
_MAY_DIFFER = {"data.data_dir", "steps_per_call", "model.scan_layers"}


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
  """Loads "configs/convnn_k9.py" or "configs/convnn_k9.py:digits" and applies overrides.

  Args:
    path: a Python file with get_config([argument]), optionally followed by ":argument".
    overrides: command-line words such as "--config.seed=1" (or "--config.seed", "1").

  Raises:
    UserError: no such file, preset, field, or an impossible value.
  """
  file, _, argument = path.partition(":")
  config = config_file.get_config(pathlib.Path(file), argument)
  return override(config, overrides)


def name_of(path: str) -> str:
  """The run's name: "convnn_k9" or "convnn_k9-digits"."""
  file, _, argument = path.partition(":")
  clean = "".join(c if c.isalnum() or c in "._-" else "-" for c in argument)
  return pathlib.Path(file).stem + (f"-{clean}" if clean else "")


def override(config: ConfigDict, overrides: Sequence[str] = ()) -> ConfigDict:
  """Applies command-line overrides to a config and locks it."""
  words = exchange.join_values(overrides)
  check_fields(config)
  config = ConfigDict(exchange.exchange_members(config.to_dict(), words))
  complete(config)
  for word in words:
    _check_field(config, word)
  values = flags.FlagValues()
  argv = ["config", *words]
  config_flags.DEFINE_config_dict("config", config, flag_values=values, lock_config=True, sys_argv=argv)
  try:
    values(argv)
  except (flags.Error, ValueError, TypeError, SyntaxError) as error:
    raise UserError(_wrong_kind(config, str(error))) from error
  return values.config


def _wrong_kind(config: ConfigDict, error: str) -> str:
  """The message about an override that the flags' parser refuses, whose words are `error`."""
  for field, value in flatten(config.to_dict()).items():
    given = re.search(rf"--config\.{re.escape(field)}=(.*?)(?:: |$)", error)
    if given and value is not None:
      return f"config.{field}={given[1]!r} must be of type {type(value).__name__}, such as {value!r}."
  reason = " ".join(error.removeprefix("Flags parsing error:").split())
  return f"A config override has a value of the wrong kind: {reason}"


def complete(config: ConfigDict) -> None:
  """Adds the defaults of the chosen model and of its attentions, in place."""
  with config.unlocked():
    model = model_class(config.model.name)
    _fill(config.model, model, "model")
    attention = config.model.get("attention")
    if attention is not None:
      _complete_attention(attention, staged=getattr(model, "staged", False))


def _complete_attention(spec: ConfigDict, *, staged: bool) -> None:
  """Specs inside the spec, such as the two of branching, are attentions, too.

  The attention of a staged model may give a value per stage for any field.
  """
  _fill(spec, attention_class(spec.get("name", "")), "attention", staged=staged)
  for value in spec.values():
    if isinstance(value, ConfigDict):
      _complete_attention(value, staged=staged)


def check_fields(config: ConfigDict) -> None:
  """Checks that a config has exactly the fields of configs/base.py, each of its kind.

  The fields of the model and the attention are checked against their classes, by `complete`.

  Raises:
    UserError: a field is missing, unknown, or of another kind.
  """
  base = importlib.import_module("configs.base").get_config()

  def compare(section: str, here, wanted) -> None:
    for field in here:
      if field not in wanted:
        raise unknown_name(f"field of {section}:", field, wanted.keys())
    for field, example in wanted.items():
      if field not in here:
        raise UserError(f"{section} has no field '{field}'; start from base.get_config() of configs/base.py.")
      if not isinstance(example, ConfigDict):
        _check_kind(f"{section}.{field}", here[field], example)
      elif not isinstance(here[field], ConfigDict):
        raise UserError(
          f"{section}.{field}={here[field]!r} must be a section with the fields of configs/base.py."
        )
      elif field != "model":
        compare(f"{section}.{field}", here[field], example)

  compare("config", config, base)
  if "name" not in config.model:
    raise UserError("config.model has no field 'name'.")


def _check_kind(name: str, value, example) -> None:
  """Raises UserError unless `value` is of the kind of `example`; a whole number may stand for a float."""
  kinds = {bool: bool, int: int, float: (int, float), str: str, tuple: (tuple, list)}
  expected = kinds.get(type(example), object)
  if not isinstance(value, expected) or (isinstance(value, bool) and not isinstance(example, bool)):
    wanted = (value,) if isinstance(example, tuple) and isinstance(value, str) else example
    raise UserError(f"{name}={value!r} must be of type {type(example).__name__}, such as {wanted!r}.")


def _fill(spec: ConfigDict, cls, kind: str, *, staged: bool = False) -> None:
  fields = registry.spec_fields(cls)
  for field in spec:
    if field != "name" and field not in fields:
      raise unknown_name(f"field of {kind} '{spec.name}':", field, fields)
  missing = [field for field in fields if field not in spec and field not in registry.defaults(cls)]
  if missing:
    raise UserError(
      f"{kind.capitalize()} '{spec.name}' needs a value for {', '.join(missing)}; start from its config."
    )
  for field, value in registry.defaults(cls).items():
    if field in spec:
      per_stage = staged and is_per_stage(spec[field], value)
      for given in spec[field] if per_stage else [spec[field]]:
        if value is not None:
          _check_kind(f"{field} of {kind} '{spec.name}'", given, value)
      continue
    if isinstance(value, Mapping):  # the spec of a member inside the member
      value = dict(value)
    if value is None:
      options = [t for t in typing.get_args(typing.get_type_hints(cls)[field]) if t is not type(None)]
      if not options or options[0] not in (int, float, str):
        continue
      value = config_dict.placeholder(options[0])
    spec[field] = value


def _check_field(config: ConfigDict, word: str) -> None:
  path = word.split("=", 1)[0].removeprefix("--config.").split(".")
  here = config
  for depth, part in enumerate(path):
    if not isinstance(here, ConfigDict):
      raise UserError(f"config.{'.'.join(path[:depth])} is a value, it has no field '{part}'.")
    if part not in here:
      section = ".".join(["config", *path[:depth]])
      raise unknown_name(f"field of {section}:", part, here.keys(), _elsewhere(config, path[depth:]))
    here = here[part]
  if isinstance(here, ConfigDict):
    raise UserError(
      f"config.{'.'.join(path)} is a section; set one of its fields: {', '.join(sorted(here.keys()))}."
    )


def _elsewhere(config: ConfigDict, path: Sequence[str]) -> str:
  """A hint at the first field or section of the config whose path ends with `path`; "" if there is none."""
  known = [field.split(".") for field in flatten(config.to_dict())]
  paths = [fields[:depth] for fields in known for depth in range(len(fields), 0, -1)]
  fits = [".".join(fields) for fields in paths if fields[-len(path) :] == list(path)]
  return f"config.{fits[0]}" if fits else ""


def to_json(config: ConfigDict) -> str:
  """The config as JSON text, fields sorted."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True, default=list) + "\n"


def from_json(text: str) -> ConfigDict:
  """The config that `to_json` wrote; lists become tuples again. ValueError if it is no such text."""

  def restore(value):
    if isinstance(value, Mapping):
      return {k: restore(v) for k, v in value.items()}
    return tuple(restore(v) for v in value) if isinstance(value, list) else value

  config = restore(json.loads(text))
  if not isinstance(config, dict):
    raise ValueError("not a table of fields")
  return ConfigDict(config)


def differences(saved: ConfigDict, new: ConfigDict) -> list[str]:
  """Lines "field: saved value -> new value" for all fields in which two configs differ."""
  old, now = flatten(saved.to_dict()), flatten(new.to_dict())
  return [
    f"{field}: {old.get(field, 'absent')!r} -> {now.get(field, 'absent')!r}"
    for field in sorted(old.keys() | now.keys())
    if field not in _MAY_DIFFER and old.get(field, "absent") != now.get(field, "absent")
  ]


def flatten(tree: Mapping, prefix: str = "") -> dict:
  """Nested fields as {"model.attention.name": value}; lists become tuples."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= flatten(value, f"{prefix}{key}.")
    else:
      flat[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
  return flat


def validate(config: ConfigDict) -> None:
  """Checks the numbers of a run that no other part checks.

  Raises:
    UserError: with the field, its value and the rule.
  """
  for field, value in flatten(config.to_dict()).items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f"config.{field}={value} must be a finite number.")
  if config.seed >= 2**32:
    raise UserError(f"config.seed={config.seed} must be less than 2**32 = {2**32}.")
  at_least = {
    "batch_size": 1,
    "eval_batch_size": 1,
    "num_epochs": 1,
    "log_every": 1,
    "eval_every": 0,
    "checkpoint_every": 0,
    "keep_checkpoints": 1,
    "max_skipped_updates": 1,
    "steps_per_call": 1,
    "seed": 0,
  }
  for field, least in at_least.items():
    if config[field] < least:
      raise UserError(f"config.{field}={config[field]} must be at least {least}.")
  if config.dtype not in ("float32", "bfloat16"):
    raise unknown_name("dtype", config.dtype, ("float32", "bfloat16"))
  accumulate = config.optimizer.accumulate
  if accumulate < 1 or config.batch_size % accumulate:
    raise UserError(
      f"config.optimizer.accumulate={accumulate} must be at least 1 and divide batch_size={config.batch_size}."
    )

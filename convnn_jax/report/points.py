"""The points of a sweep: what a config file's sweep() and baseline() say, as checked configs with folder names.

    def sweep():
      return [{"model.attention.temperature": t, "seed": s} for t in (0.5, 1.0) for s in (0, 1, 2)]

    def baseline():  # optional; run with every seed of the sweep unless it names its own
      return {"model.attention.name": "softmax"}

Values are set like --config.FIELD=VALUE on the command line; a mapping replaces its section as a whole. The key
"config" takes another config file, "configs/vit_softmax.py:mnist". Both functions may take the argument behind
--config=FILE:ARGUMENT.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training import config_file

_LONGEST_NAME = 120


@dataclasses.dataclass(frozen=True)
class Point:
  """One run of a sweep.

  Attributes:
    part: "points" or "baseline".
    name: of its folder.
    overrides: as the config file has them.
    config: complete and locked.
  """

  part: str
  name: str
  overrides: dict[str, Any]
  config: ConfigDict

  @property
  def setting(self) -> dict[str, Any]:
    """What is averaged over: the overrides without the seed."""
    return {field: value for field, value in self.overrides.items() if field != "seed"}


def read_points(path: str, words: Sequence[str], limit: int = 0) -> list[Point]:
  """The points of --config=path, baseline last.

  Args:
    path: FILE or FILE:ARGUMENT.
    words: command-line overrides, for every point.
    limit: the first so many points of sweep(); 0 = all. The baseline runs with the seeds among them.

  Raises:
    UserError: no sweep(), or a point cannot be a run; names the point.
  """
  name, _, argument = path.partition(":")
  file = pathlib.Path(name)
  module = config_file.load_module(file)
  if not callable(getattr(module, "sweep", None)):
    raise UserError(f"{file} has no function sweep(); it must return a list of dicts such as {{'seed': 0}}.")
  points = _checked(file, "sweep", config_file.call(module, file, "sweep", argument))[: limit or None]
  if not points:
    raise UserError(f"sweep() of {file} returns no points.")
  baseline = []
  if callable(getattr(module, "baseline", None)):
    given = config_file.call(module, file, "baseline", argument)
    given = _checked(file, "baseline", [given] if isinstance(given, Mapping) else given)
    seeds = list(dict.fromkeys(p["seed"] for p in points if "seed" in p))
    for one in given:
      baseline += [one] if "seed" in one or not seeds else [{**one, "seed": seed} for seed in seeds]
  return _build("points", path, points, words) + _build("baseline", path, baseline, words)


def _checked(file, function: str, points) -> list[dict]:
  if not isinstance(points, (list, tuple)) or not all(isinstance(p, Mapping) for p in points):
    raise UserError(f"{function}() of {file} must return dicts of overrides, such as {{'seed': 0}}.")
  return [dict(point) for point in points]


def _build(part: str, path: str, points: list[dict], words: Sequence[str]) -> list[Point]:
  swept = {field for point in points for field in point} if part == "points" else set()
  for word in words:
    field = word.split("=", 1)[0].removeprefix("--config.")
    if field in swept:
      raise UserError(f"{word}: sweep() sets {field} itself; leave it out, or change sweep().")
  built, names = [], {}
  for number, point in enumerate(points):
    name = _name(point)
    if name in names and names[name] == point:
      raise UserError(f"{part}: point {number} {point} is there twice; leave it out.")
    if name in names:  # other fields with the same last parts and values
      name = f"{name}-{hashlib.sha256(repr(sorted(point.items())).encode()).hexdigest()[:8]}"
    names[name] = point
    try:
      config = _config(path, point, words)
    except UserError as error:
      raise UserError(f"{part}: point {number} {point}: {error}") from error
    built.append(Point(part, name, point, config))
  return built


def _config(path: str, point: Mapping, words: Sequence[str]) -> ConfigDict:
  file, _, argument = point.get("config", path).partition(":")
  config = config_file.get_config(pathlib.Path(file), argument)
  own = []
  for field, value in point.items():
    if field == "config":
      continue
    if isinstance(value, Mapping):
      _replace_section(config, field, value)
    else:
      own.append(f"--config.{field}={value}")
  return config_lib.override(config, [*words, *own])


def _replace_section(config: ConfigDict, field: str, value: Mapping) -> None:
  *parents, leaf = field.split(".")
  here = config
  for parent in parents:
    here = here.get(parent) if isinstance(here, ConfigDict) else None
  if not isinstance(here, ConfigDict) or not isinstance(here.get(leaf), ConfigDict):
    raise UserError(
      f"'{field}' is not a section of the config, and only a section can be set to {dict(value)}."
    )
  with here.unlocked():
    here[leaf] = ConfigDict(dict(value))


def label(field: str) -> str:
  """A short name of a field: its last part, or the one before where that is only `name`."""
  parts = field.split(".")
  return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _name(point: Mapping) -> str:
  """ "temperature=0.5-seed=0", fit for a folder; depends on nothing but the point itself."""
  text = "-".join(f"{label(field)}={describe(value)}" for field, value in point.items()) or "default"
  clean = "".join(c if c.isalnum() or c in "._-=+" else "_" for c in text)
  if len(clean) <= _LONGEST_NAME:
    return clean
  return f"{clean[:_LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def describe(value) -> str:
  """A value in a table: a section by its name."""
  return str(value.get("name", dict(value))) if isinstance(value, Mapping) else str(value)

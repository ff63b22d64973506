"""Explicit tables `name -> "module:Class"` and the one way to build a member from its spec.

A spec is a mapping with the member's `name` and its own fields, for example
`dict(name="convnn", num_heads=1, num_neighbors=9)`. Modules are imported when they are first asked for.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from flax.core import FrozenDict

from convnn_jax.errors import UserError, choose, unknown_name

# Fields that a caller passes and no spec may set: Flax's own, the compute dtype, the data set's size.
_NOT_IN_SPECS = {"parent", "name", "dtype", "num_classes"}


def member(kind: str, table: Mapping[str, str], package: str, name: str):
  """The class that `name` stands for in `table`."""
  module, cls = choose(kind, name, table).split(":")
  return getattr(importlib.import_module(f"{package}.{module}"), cls)


def spec_fields(cls) -> dict[str, dataclasses.Field]:
  """The fields that a spec of `cls` may hold."""
  return {
    f.name: f
    for f in dataclasses.fields(cls)
    if f.init and f.name not in _NOT_IN_SPECS and not f.name.startswith("_")
  }


def defaults(cls) -> dict[str, Any]:
  """Field -> default value, for the fields of `cls` that have one."""
  return {name: f.default for name, f in spec_fields(cls).items() if f.default is not dataclasses.MISSING}


def build(kind: str, table: Mapping[str, str], package: str, spec: Mapping, module_name=None, **fixed):
  """Builds the member that `spec` describes.

  Args:
    kind: what the table holds, for error messages ("attention", "model").
    table: name -> "module:Class", modules relative to `package`.
    package: dotted name of the package that holds the modules.
    spec: mapping with `name` and fields of that class.
    module_name: Flax name of the new module.
    **fixed: fields that the caller decides (dtype, num_classes).

  Raises:
    UserError: unknown name or field, or a required field is missing.
  """
  fields = dict(spec)
  if "name" not in fields:
    raise UserError(f"The {kind} spec {fields} has no 'name'. Known: {', '.join(sorted(table))}.")
  name = fields.pop("name")
  cls = member(kind, table, package, name)
  known = spec_fields(cls)
  for field in fields:
    if field not in known:
      raise unknown_name(f"field of {kind} '{name}':", field, known)
  required = [n for n, f in known.items() if f.default is dataclasses.MISSING and n not in fields]
  if required:
    raise UserError(f"{kind.capitalize()} '{name}' needs a value for {', '.join(required)}.")
  # Specs inside the spec are frozen, so that modules can be hashed: jax.jit takes them as static arguments.
  fields = {field: FrozenDict(v) if isinstance(v, Mapping) else v for field, v in fields.items()}
  return cls(**fields, **fixed, name=module_name)

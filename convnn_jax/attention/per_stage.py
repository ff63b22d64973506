"""One spec for the stages of a hierarchical backbone."""

from collections.abc import Mapping
from typing import Any

from convnn_jax import registry
from convnn_jax.attention import attention_class
from convnn_jax.errors import UserError


def is_per_stage(value, default) -> bool:
  """Whether `value` lists a value per stage, for a field with this default: a tuple, of tuples if that is one."""
  if not isinstance(value, (tuple, list)):
    return False
  return not isinstance(default, (tuple, list)) or (
    len(value) > 0 and all(isinstance(entry, (tuple, list)) for entry in value)
  )


def spec_of_stage(spec: Mapping[str, Any], stage: int, num_stages: int) -> dict[str, Any]:
  """The spec of one stage, where dict(name="window", num_heads=(3, 6, 12)) gives three stages their own heads.

  Raises:
    UserError: a field lists neither one value nor one per stage.
  """
  defaults = registry.defaults(attention_class(spec.get("name", "")))
  of_stage = {}
  for field, value in spec.items():
    if isinstance(value, Mapping):  # a spec inside the spec
      value = spec_of_stage(value, stage, num_stages)
    elif field in defaults and is_per_stage(value, defaults[field]):
      if len(value) not in (1, num_stages):
        raise UserError(
          f"attention.{field}={tuple(value)} must be one value, or one for each of the {num_stages} stages."
        )
      value = value[stage if len(value) > 1 else 0]
      if isinstance(defaults[field], (int, float)) and isinstance(value, str):
        raise UserError(f"attention.{field}={value!r} must be a number, such as {defaults[field]}.")
    of_stage[field] = value
  return of_stage

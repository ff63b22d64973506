"""What state dicts of Hugging Face need on both ways: names in other words; query, key and value as one or three."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

_ROLES = ("query", "key", "value")


def replaced(name: str, table: Sequence[tuple[str, str]]) -> str:
  """`name` with each part of the table, between dots, replaced once, in the table's order.

  A part that begins with "^" stands at the beginning of the name.
  """
  for there, here in table:
    begin = "^()" if there.startswith("^") else r"(^|\.)"
    part, here = re.escape(there.removeprefix("^")), here.removeprefix("^")
    name = re.sub(rf"{begin}{part}($|\.)", rf"\1{here}\2", name, count=1)
  return name


def inverse(table: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
  """The table for the way back, its parts in the same order."""
  return [(here, there) for there, here in table]


def fuse(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """query, key and value one below the other; a bias without that of the key stays apart, as in Swin V2."""
  fused = {
    name: array for name, array in state.items() if name.split(".")[-2:-1] not in ([r] for r in _ROLES)
  }
  for prefix in sorted({name.rpartition(".query.")[0] for name in state if ".query." in name}):
    part = lambda role, kind: state.get(f"{prefix}.{role}.{kind}")  # noqa: B023 - used in this turn
    if any(part(role, "weight") is None for role in _ROLES):
      fused |= {name: array for name, array in state.items() if name.startswith(f"{prefix}.")}
      continue
    fused[f"{prefix}.qkv.weight"] = np.concatenate([part(role, "weight") for role in _ROLES])
    if part("key", "bias") is not None:
      fused[f"{prefix}.qkv.bias"] = np.concatenate([part(role, "bias") for role in _ROLES])
    elif part("query", "bias") is not None:
      fused[f"{prefix}.q_bias"], fused[f"{prefix}.v_bias"] = part("query", "bias"), part("value", "bias")
  return fused


def part(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inverse of `fuse`."""
  parted = {}
  biases = {"q_bias": "query.bias", "v_bias": "value.bias"}
  for name, array in state.items():
    prefix, _, kind = name.rpartition(".")
    if prefix.endswith(".qkv"):
      base = prefix.removesuffix(".qkv")
      parted |= {f"{base}.{role}.{kind}": a for role, a in zip(_ROLES, np.split(array, 3), strict=True)}
    else:
      parted[f"{prefix}.{biases[kind]}" if kind in biases else name] = array
  return parted

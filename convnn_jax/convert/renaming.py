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
  """query, key and value one below the other; a bias without that of the key stays apart, as in Swin V2.

  Where one is missing or of another shape, all keep their names.
  """
  fused = {
    name: array for name, array in state.items() if name.split(".")[-2:-1] not in ([r] for r in _ROLES)
  }
  for prefix in sorted({name.rpartition(".query.")[0] for name in state if ".query." in name}):
    weights, biases = (
      [state.get(f"{prefix}.{role}.{kind}") for role in _ROLES] for kind in ("weight", "bias")
    )
    there = tuple(bias is not None for bias in biases)
    known = {(True, True, True): _alike(biases), (True, False, True): True, (False, False, False): True}
    if not (_alike(weights) and known.get(there)):
      fused |= {name: array for name, array in state.items() if name.startswith(f"{prefix}.")}
      continue
    fused[f"{prefix}.qkv.weight"] = np.concatenate(weights)
    if all(there):
      fused[f"{prefix}.qkv.bias"] = np.concatenate(biases)
    elif any(there):
      fused[f"{prefix}.q_bias"], fused[f"{prefix}.v_bias"] = biases[0], biases[2]
  return fused


def _alike(arrays):
  """Whether all are there and of one shape with rows."""
  return (
    all(array is not None for array in arrays) and len({a.shape for a in arrays}) == 1 and arrays[0].ndim > 0
  )


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

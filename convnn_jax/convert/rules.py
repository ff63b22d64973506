"""Parameters of a foreign checkpoint to ours and back, by a table of rules.

A rule pairs a name in the source's state dict with a path in our parameters and names the change of layout
between the two. Nothing is guessed: a name without a rule, a parameter without a source and a wrong shape
are listed in one error.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from convnn_jax.errors import UserError, choose


class Rule(NamedTuple):
  """One line of a table.

  Attributes:
    source: name in the source; `{layer}` and other words in braces stand for any number. `qkv.weight[1/3]` is the
      second third of the rows of `qkv.weight`, where one layer there is several here.
    target: our path, joined by "/", with the same words in braces. `query/kernel[1:{head}]` is entry `head` along axis
      1 of `query/kernel`, where several layers there are one here.
    layout: key of LAYOUTS.
  """

  source: str
  target: str
  layout: str = "same"


class Layout(NamedTuple):
  """Two inverse functions; `to_flax(array, shape)` knows the shape of our parameter, e.g. its heads."""

  to_flax: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
  to_source: Callable[[np.ndarray], np.ndarray]


def _permuted(*axes: int) -> Layout:
  back = tuple(np.argsort(axes))
  return Layout(lambda x, shape: np.transpose(x, axes), lambda x: np.transpose(x, back))


LAYOUTS = {
  "same": Layout(lambda x, shape: x, lambda x: x),
  # Linear [out in] <-> Dense [in out]
  "linear": _permuted(1, 0),
  # Linear [h*d in] <-> DenseGeneral [in h d], and its bias [h*d] <-> [h d]
  "split_linear": Layout(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(x.shape[0], -1).T),
  "split_bias": Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1)),
  # Linear [out h*d] <-> DenseGeneral [h d out]
  "merge_linear": Layout(lambda x, shape: x.T.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]).T),
  # One value per head [h 1 1] <-> [h]
  "per_head": Layout(lambda x, shape: x[:, 0, 0], lambda x: x[:, None, None]),
  # Conv1d of length 1 with a group per head [h*n m 1] <-> [h n m]
  "mixing_conv1d": Layout(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1, x.shape[-1], 1)),
  # Linear [out c*y*x] of a feature map laid out flat <-> DenseGeneral [y x c out]
  "map_linear": Layout(
    lambda x, shape: x.reshape(-1, shape[2], shape[0], shape[1]).transpose(2, 3, 1, 0),
    lambda x: x.transpose(3, 2, 0, 1).reshape(x.shape[3], -1),
  ),
  # a batch axis of length 1 that one side has
  "drop_batch_axis": Layout(lambda x, shape: x[0], lambda x: x[None]),
  "add_batch_axis": Layout(lambda x, shape: x[None], lambda x: x[0]),
  # Conv2d [out in y x] <-> Conv [y x in out]
  "conv2d": _permuted(2, 3, 1, 0),
  # Conv1d over k neighbours: [out in k] <-> [k in out]
  "conv1d": _permuted(2, 1, 0),
  # the same with one input channel per group: [d 1 k] <-> [k d]
  "depthwise_conv1d": Layout(lambda x, shape: x[:, 0].T, lambda x: x.T[:, None]),
  # Conv1d of length 1: [out in 1] <-> Dense [in out]
  "pointwise_conv1d": Layout(lambda x, shape: x[..., 0].T, lambda x: x.T[..., None]),
}

_WORD = re.compile(r"\\{(\w+)\\}")


def _matcher(pattern: str) -> re.Pattern:
  return re.compile(_WORD.sub(r"(?P<\1>\\d+)", re.escape(pattern)))


_PART = re.compile(r"(.+)\[(\d+)/(\d+)\]")


def _part(name: str) -> tuple[str, int, int]:
  """ "qkv.weight[1/3]" -> ("qkv.weight", 1, 3); a whole array is part 0 of 1."""
  match = _PART.fullmatch(name)
  return (match[1], int(match[2]), int(match[3])) if match else (name, 0, 1)


def _take_apart(state: Mapping[str, np.ndarray], rules: Sequence[Rule]):
  """Yields (name, array) with the arrays of which rules name parts cut into those parts."""
  parts = {base: (_matcher(base), count) for base, _, count in (_part(rule.source) for rule in rules)}
  for name, array in state.items():
    found = _find(name, parts.values())
    count = found[0] if found else 1
    if count == 1 or np.shape(array)[0] % count:
      yield name, array
    else:
      yield from ((f"{name}[{i}/{count}]", part) for i, part in enumerate(np.split(array, count)))


def _put_together(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inverse of `_take_apart`."""
  groups: dict[str, dict[int, np.ndarray]] = {}
  for name, array in state.items():
    base, index, _ = _part(name)
    groups.setdefault(base, {})[index] = array
  return {
    base: parts[0] if len(parts) == 1 else np.concatenate([parts[i] for i in sorted(parts)])
    for base, parts in groups.items()
  }


_ENTRY = re.compile(r"(.+)\[(\d+):(.+)\]")


def _stacked(rules: Sequence[Rule]) -> list[tuple[re.Pattern, int]]:
  """(path, axis) of the parameters here that are several layers there."""
  entries = (_ENTRY.fullmatch(rule.target) for rule in rules)
  return [(_matcher(entry[1]), int(entry[2])) for entry in entries if entry]


def _unstack(params: Mapping[str, Any], rules: Sequence[Rule]):
  """Yields (path, array), stacked parameters entry by entry."""
  stacked = _stacked(rules)
  for path, leaf in params.items():
    found = _find(path, stacked)
    if not found or leaf.ndim <= found[0]:
      yield path, leaf
      continue
    axis = found[0]
    for i in range(leaf.shape[axis]):
      yield f"{path}[{axis}:{i}]", np.take(leaf, i, axis)


def _stack(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inverse of `_unstack`."""
  whole, entries = {}, {}
  for path, leaf in params.items():
    if match := _ENTRY.fullmatch(path):
      entries.setdefault((match[1], int(match[2])), {})[int(match[3])] = leaf
    else:
      whole[path] = leaf
  return whole | {path: np.stack([e[i] for i in sorted(e)], axis) for (path, axis), e in entries.items()}


def _find(name: str, patterns: Iterable[tuple[re.Pattern, Any]]):
  """(value, words) of the first pattern that is all of `name`, or None."""
  for pattern, value in patterns:
    if match := pattern.fullmatch(name):
      return value, match.groupdict()
  return None


def flat(params) -> dict[str, Any]:
  """Nested parameters -> {"block_0/mlp/out/kernel": leaf}."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flat`."""
  tree: dict[str, Any] = {}
  for path, leaf in params.items():
    *parents, name = path.split("/")
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def to_flax(
  state: Mapping[str, np.ndarray],
  rules: Sequence[Rule],
  target,
  *,
  ignore: Sequence[str] = (),
  optional: Sequence[str] = (),
  any_shape: Callable[[str], bool] = lambda path: False,
) -> dict[str, Any]:
  """Our parameters from a source's state dict.

  Args:
    state: source name -> array.
    rules: the source's table.
    target: our parameters or their shapes (`jax.eval_shape` of init).
    ignore: source names (with words in braces) that have no counterpart here: constants, unused weights.
    optional: our paths that need no source.
    any_shape: says for which of our paths the source's shape is kept.

  Returns:
    Nested parameters in the dtypes of `state`.

  Raises:
    UserError: lists surplus names, parameters left without a source, and wrong shapes.
  """
  # Nothing is computed with these zeros: they are shapes that can be cut.
  zeros = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in flat(target).items()}
  shapes = {path: leaf.shape for path, leaf in _unstack(zeros, rules)}
  patterns = [(_matcher(rule.source), rule) for rule in rules]
  ignored = [(_matcher(name), None) for name in ignore]
  params, surplus, wrong = {}, [], []
  for name, array in _take_apart(state, rules):
    if _find(name, ignored):
      continue
    found = _find(name, patterns)
    path = found[0].target.format(**found[1]) if found else None
    if path not in shapes:
      surplus.append(name)
      continue
    wanted = None if any_shape(path) else shapes[path]
    converted, problem = _convert(np.asarray(array), found[0].layout, wanted)
    if problem:
      wrong.append(f"{name} {np.shape(array)} -> {path} {shapes[path]}: {problem}")
    params[path] = converted
  missing = [f"{path} {shapes[path]}" for path in shapes if path not in params and path not in optional]
  _report("checkpoint", {"not known here": surplus, "without a source": missing, "of wrong shape": wrong})
  return nested(_stack(params))


def to_source(params, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
  """The source's state dict from our parameters, or from gradients of the same structure.

  Raises:
    UserError: lists parameters that no rule names.
  """
  patterns = [(_matcher(rule.target), rule) for rule in rules]
  state, unknown = {}, []
  arrays = {path: np.asarray(leaf) for path, leaf in flat(params).items()}
  for path, leaf in _unstack(arrays, rules):
    found = _find(path, patterns)
    if found is None:
      unknown.append(path)
      continue
    rule, words = found
    state[rule.source.format(**words)] = choose("layout", rule.layout, LAYOUTS).to_source(leaf)
  _report("parameters", {"not known to the source": unknown})
  return _put_together(state)


def _convert(array, layout, shape):
  """(converted array, None), or (None, what is wrong with its shape)."""
  layout = choose("layout", layout, LAYOUTS)
  try:
    converted = layout.to_flax(array, shape)
    back = layout.to_source(converted).shape
  except (ValueError, IndexError) as error:
    return None, str(error)
  if shape is not None and converted.shape != shape:
    return None, f"becomes {converted.shape}"
  # A grouped convolution read as a depthwise one would lose channels without this.
  return (converted, None) if back == array.shape else (None, f"only {back} of it would be used")


def _report(what: str, problems: Mapping[str, Sequence[str]]) -> None:
  lines = [f"{kind}: {'; '.join(_grouped(sorted(names)))}" for kind, names in problems.items() if names]
  if lines:
    raise UserError(f"The {what} and the model do not fit. " + " | ".join(lines))


def _grouped(names: Sequence[str]) -> list[str]:
  """The first of the names that differ in numbers only, and how many there are."""
  groups: dict[str, list[str]] = {}
  for name in names:
    groups.setdefault(re.sub(r"\d+", "#", name), []).append(name)
  return [same[0] if len(same) == 1 else f"{same[0]} and {len(same) - 1} like it" for same in groups.values()]

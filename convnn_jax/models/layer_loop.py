"""The blocks of a backbone, one after another or as one loop.

As a loop a block is compiled once, and between forward and backward pass it keeps little. Parameters are those of the
blocks one by one, `block_0`, `block_1` and so on: the loop stacks them as it begins, so checkpoints, conversions and
rules for parameter paths know nothing of it. So are random numbers (layers/random_keys.py).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from convnn_jax.errors import unknown_name
from convnn_jax.layers.random_keys import LoopedLayer
from convnn_jax.ops.selection import SAVED_NAME

# word -> what a block keeps for the backward pass; the rest is computed again there.
_KEPT = {
  # results of its linear layers, and the neighbours that were chosen: few bytes, and long to find again
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(SAVED_NAME),
  ),
  "full": jax.checkpoint_policies.nothing_saveable,  # its input
}
SCAN_LAYERS = ("auto", *_KEPT, "unrolled")

# Fields in which blocks of one loop may differ.
_NUMBERS = ("drop_path_rate",)


class _CannotLoop(Exception):
  """A block changes the type of its input."""


def apply_blocks(
  parent: nn.Module,
  block: type[nn.Module],
  fields: Sequence[Mapping[str, Any]],
  x,
  *,
  scan_layers: str,
  **call,
):
  """x through blocks of one class, named block_0, block_1, ...; to be called in a compact method.

  Args:
    parent: the module that has the blocks.
    block: their class; a call gives what has the shape of x.
    fields: of each block. A loop needs two like blocks, or pairs, triples, ... of blocks that repeat; "like" but for
      drop_path_rate.
    x: input of the first.
    scan_layers: "dots", a loop that keeps the results of linear layers and of selections for the backward pass;
      "full", one that keeps a block's input; "unrolled"; or "auto", which is "dots" where a training step is compiled,
      "unrolled" elsewhere: in evaluation a loop would save nothing but time to compile, and its stack is a copy of the
      parameters. Whatever the word, blocks run one by one while parameters are made, and when the caller asks for
      values that modules sow or gives them variables besides parameters.
    call: further arguments of every block's call, `train` among them.

  Raises:
    UserError: unknown word.
  """
  check_scan_layers(scan_layers)
  if scan_layers == "auto" and not call.get("train", False):
    scan_layers = "unrolled"
  groups = _groups(parent, fields, x, scan_layers)
  done = 0
  if groups:
    keep = _KEPT["dots" if scan_layers == "auto" else scan_layers]
    try:
      x = _loop(parent, block, groups, x, keep, call)
      done = len(groups) * len(groups[0])
    except _CannotLoop:
      pass
  for number in range(done, len(fields)):
    x = block(**fields[number], name=f"block_{number}")(x, **call)
  return x


def check_scan_layers(word: str) -> None:
  """Raises UserError unless `word` is one of SCAN_LAYERS."""
  if word not in SCAN_LAYERS:
    raise unknown_name("scan_layers", word, SCAN_LAYERS)


def _groups(parent, fields, x, scan_layers):
  """Equal groups of blocks, each a list of (number, fields); [] = they must run one by one."""
  if scan_layers == "unrolled" or parent.is_initializing() or parent.scope.mutable:
    return []
  variables = parent.variables
  if any(name.startswith("block_") for kind, tree in variables.items() if kind != "params" for name in tree):
    return []
  params = [_params(parent, f"block_{number}") for number in range(len(fields))]
  if scan_layers == "auto" and not any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves((x, params))):
    return []  # a loop would be compiled by itself
  like = [(_without_numbers(f), jax.tree.map(_kind, p)) for f, p in zip(fields, params, strict=True)]
  for period in range(1, len(fields) // 2 + 1):
    count = len(fields) // period
    if all(like[i] == like[i % period] for i in range(count * period)):
      numbered = list(enumerate(fields))
      return [numbered[g * period : (g + 1) * period] for g in range(count)]
  return []


def _params(parent, name):
  """Of one block, which may have none."""
  return parent.variables.get("params", {}).get(name, {})


def _without_numbers(fields):
  return {name: value for name, value in fields.items() if name not in _NUMBERS}


def _kind(leaf):
  return (jnp.shape(leaf), jnp.result_type(leaf))


def _loop(parent, block, groups, x, keep, call):
  """One turn per group; x after the last."""
  rngs = dict(parent.scope.rngs)
  places = list(zip(*groups, strict=True))  # for each place in a group the blocks that take turns there
  names = [[f"block_{number}" for number, _ in place] for place in places]
  stack = _stack_for(len(groups), rngs)
  stacked = []
  for place, blocks in zip(places, names, strict=True):
    params = jax.tree.map(lambda *leaves: stack(leaves), *(_params(parent, name) for name in blocks))
    stacked.append((params, _differing([fields for _, fields in place])))

  def turn(x, now):
    number, parts = now
    shape = (x.shape, x.dtype)
    for place, blocks, (params, numbers) in zip(places, names, parts, strict=True):
      layer = LoopedLayer(rngs, blocks, number)
      module = block(**{**place[0][1], **numbers}, parent=None)
      with layer.active():
        x = module.apply({"params": params}, x, rngs=layer.other_rngs(), **call)
    if (x.shape, x.dtype) != shape:
      raise _CannotLoop
    return x, None

  turns = (jnp.arange(len(groups)), stacked)
  return lax.scan(jax.checkpoint(turn, policy=keep, prevent_cse=False), x, turns)[0]


def _stack_for(count, rngs):
  """jnp.stack of `count` leaves; in training on a CPU one whose gradients leave the stack by slices of one kernel.

  A slice at a known place has a kernel for each place; at unknown places all share one (docs/speed.md).
  """
  if jax.default_backend() != "cpu" or not rngs:
    return jnp.stack
  numbers = _hidden_numbers(count)(jax.random.key_data(next(iter(rngs.values())).rng).ravel()[0])
  return functools.partial(_stack, numbers)


@functools.cache
def _hidden_numbers(count):
  """A function of any random word, which gives 0, 1, ... count - 1 in a way that the compiler does not see through."""

  @jax.custom_batching.custom_vmap
  def numbers(word):
    # A loop of one turn or two, both with the same end.
    turns = 1 + (word & 1).astype(jnp.int32)
    known = tuple(jnp.int32(number) for number in range(count))
    return lax.fori_loop(0, turns, lambda _, old: known, (jnp.int32(-1),) * count)

  @numbers.def_vmap
  def _(size, mapped, word):
    # Members of a sweep slice at known places: numbers of their own would turn slices into gathers.
    del size, mapped, word
    return tuple(jnp.int32(number) for number in range(count)), (False,) * count

  return numbers


@jax.custom_vjp
def _stack(numbers, leaves):
  """Leaves side by side; their gradients are slices at `numbers`, 0, 1, ..."""
  del numbers
  return jnp.stack(leaves)


def _stack_forward(numbers, leaves):
  return jnp.stack(leaves), numbers


def _stack_backward(numbers, gradients):
  return None, tuple(lax.dynamic_index_in_dim(gradients, n, 0, keepdims=False) for n in numbers)


_stack.defvjp(_stack_forward, _stack_backward)


def _differing(fields):
  """{name: float32 [turns]} of the numbers in which the blocks differ."""
  values = {name: [f[name] for f in fields] for name in _NUMBERS if name in fields[0]}
  return {name: jnp.asarray(v, jnp.float32) for name, v in values.items() if len(set(v)) > 1}

"""How the reference cases of each family run here. A new family = one function and one line in LOADERS."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from convnn_jax.attention import make_attention
from convnn_jax.convert import convnn
from convnn_jax.convert.rules import Rule, to_flax
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.models.encoder import EncoderBlock


class Loaded(NamedTuple):
  """A reference case, ready to run.

  Attributes:
    run: (our params, *inputs in the source's layout) -> output in the source's layout.
    params: ours, from the case's `param:*`.
    rules: table that brings gradients back to the source's names and layouts.
    input_gradients: whether the family stores `grad:x` for this module.
  """

  run: Callable[..., Any]
  params: Any
  rules: Sequence[Rule]
  input_gradients: bool = True


def load_convnn(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of the published ConvNN attention code."""
  kind, spec, rules, ignore = convnn.conversion(config)
  images = kind == "model"
  if kind == "attention":
    module = make_attention(spec)
  elif kind == "block":
    module = EncoderBlock(**spec)
  else:
    module = make_model(spec, num_classes=config["num_classes"])
  enter = lambda x: x.transpose(0, 2, 3, 1) if images else x

  collections = {}
  if "aux:rand_idx" in arrays:  # the draw that was made there
    drawn = {"index": arrays["aux:rand_idx"].astype(np.int32)}
    attention = spec if kind == "attention" else spec["attention"]
    drawn = {"first": drawn} if attention["name"] == "branching" else drawn
    within = {
      "attention": lambda: drawn,
      "block": lambda: {"attention": drawn},
      "model": lambda: {f"block_{layer}": {"attention": drawn} for layer in range(spec["depth"])},
    }
    collections = {"candidates": within[kind]()}
  init = lambda x: module.init(jax.random.key(0), enter(x), train=False)["params"]
  state = {name.removeprefix("param:"): a for name, a in arrays.items() if name.startswith("param:")}
  params = to_flax(state, rules, jax.eval_shape(init, arrays["x"]), ignore=ignore)
  run = lambda params, x: module.apply({"params": params, **collections}, enter(x), train=False)
  return Loaded(run, params, rules, input_gradients=not images)


LOADERS = {
  "convnn": load_convnn,
}


def load(path, config, arrays) -> Loaded:
  """Loads a case by its family: a folder of its path, or else the only family that takes its options.

  Raises:
    UserError: no family takes the case.
  """
  folders = [folder for folder in reversed(path.parts[:-1]) if folder in LOADERS]
  if folders:
    return LOADERS[folders[0]](config, arrays)
  reasons = []
  for family, loader in LOADERS.items():
    try:
      return loader(config, arrays)
    except UserError as error:
      reasons.append(f"{family}: {error}")
  raise UserError(f"No family takes the case {path.name}. " + " ".join(reasons))

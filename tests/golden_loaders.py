"""How the reference cases of each family run here. A new family = one function and one line in LOADERS."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from golden_case import Loaded, load_module
from golden_zoo import load_zoo

from convnn_jax.convert import convnn
from convnn_jax.convert.options import NotOffered
from convnn_jax.errors import UserError


def load_convnn(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of the published ConvNN attention code."""
  made = convnn.conversion(config)
  collections = {}
  if "aux:rand_idx" in arrays:  # the draw that was made there
    drawn = {"index": arrays["aux:rand_idx"].astype(np.int32)}
    attention = made.spec if made.kind == "attention" else made.spec["attention"]
    drawn = {"first": drawn} if attention["name"] == "branching" else drawn
    within = {
      "attention": lambda: drawn,
      "block": lambda: {"attention": drawn},
      "model": lambda: {f"block_{layer}": {"attention": drawn} for layer in range(made.spec["depth"])},
    }
    collections = {"candidates": within[made.kind]()}
  loaded = load_module(made, config, arrays, collections=collections)
  return loaded._replace(input_gradients=made.kind != "model")


LOADERS = {
  "convnn": load_convnn,
  "zoo": load_zoo,
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
    except NotOffered:
      raise
    except UserError as error:
      reasons.append(f"{family}: {error}")
  raise UserError(f"No family takes the case {path.name}. " + " ".join(reasons))

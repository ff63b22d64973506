"""Parameters for tests that do not care how they are initialised: nothing is compiled for them."""

import jax
import numpy as np


def random_params(module, *inputs, scale=0.3):
  """{"params": normal numbers of every parameter's shape} for module(*inputs, train=False)."""
  shapes = jax.eval_shape(lambda key: module.init(key, *inputs, train=False), jax.random.key(0))["params"]
  rng = np.random.default_rng(0)
  return {
    "params": jax.tree.map(lambda leaf: scale * rng.standard_normal(leaf.shape).astype(np.float32), shapes)
  }

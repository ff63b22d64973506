"""ConvNN attention with random parameters, for its tests."""

import jax
import jax.numpy as jnp
import numpy as np
from fast_jit import fast_jit

from convnn_jax.attention import make_attention


def make_tokens(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape)


def make_convnn(**spec):
  return make_attention(dict(name="convnn", **spec))


def random_params(module, x, seed=1):
  """Random values for every parameter: kernels of ones would hide mistakes, and init would be compiled."""
  init = lambda x: module.init(jax.random.key(0), x, train=False)
  shapes = jax.eval_shape(init, jax.ShapeDtypeStruct(x.shape, np.float32))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: 0.5 * rng.standard_normal(leaf.shape), dict(shapes["params"]))


def apply_convnn(module, params, x, **kwargs):
  """The module's output in evaluation; `params` as made by random_params."""
  x = jnp.asarray(x, jnp.float32)
  return fast_jit(lambda p, x: module.apply({"params": p}, x, train=False, **kwargs))(params, x)

"""One attention layer in training, forward and backward, and the same layer in PyTorch.

PyTorch's threads wait for each other, so on a busy machine its wall time grows more than ours and the ratio flatters
us. There, on one core:

    taskset -c 1 python -m benchmarks.run --only=layers
"""

import functools

import jax

from benchmarks.cases import Group, Ratio
from benchmarks.measure import Compiled
from benchmarks.steps import CONVNN, torch
from convnn_jax.attention import make_attention
from convnn_jax.training import config as config_lib

SHAPE = (16, 197, 192)
# As published: a candidate that is the token itself can be chosen once more.
SAMPLED = ("num_candidates=32", "quirks=('weak_self_mask',)")
# Layer of benchmarks/peers/layers.py -> config and overrides of its attention.
SPECS = {
  "local": ("configs/local.py",),
  "sparse": ("configs/sparse.py",),
  "branching_attention": ("configs/branching_attention.py",),
  "branching_conv": ("configs/branching_conv.py",),
  "random": (CONVNN, "candidates=random", *SAMPLED),
  "spatial": (CONVNN, "candidates=spatial", *SAMPLED),
}


def attention_spec(name: str) -> dict:
  """Our spec of the layer."""
  path, *overrides = SPECS[name]
  config = config_lib.load(path, [f"--config.model.attention.{override}" for override in overrides])
  return config.model.attention.to_dict()


def layer(name: str) -> Compiled:
  """Output and gradients to input and parameters, with dropout and draws of one key."""
  module = make_attention(attention_spec(name))
  key, *seeds = jax.random.split(jax.random.key(0), 4)
  x, cotangent = (jax.random.normal(seed, SHAPE) for seed in seeds[:2])
  params = module.init(seeds[2], x, train=False)["params"]

  def run(key, cotangent, params, x):
    rngs = dict(dropout=key, candidates=key)
    out, backward = jax.vjp(
      lambda params, x: module.apply({"params": params}, x, train=True, rngs=rngs), params, x
    )
    return out, backward(cotangent)

  return Compiled(run, key, cotangent, params, x)


_WHAT = {
  "local": "local attention, windows of 128 tokens, 3 heads",
  "sparse": "sparse attention, a band of 49 tokens, one head",
  "branching_attention": "convnn k=9 and softmax on half of the channels each",
  "branching_conv": "convnn k=9 and a convolution on half of the channels each",
  "random": "convnn k=9 with 32 random candidates",
  "spatial": "convnn k=9 with 32 candidates along the sequence",
}
_IDS = dict(zip(SPECS, ("C14", *(f"C14{letter}" for letter in "bcdef")), strict=True))
_TORCH = {name: f"torch {name}" for name in SPECS}

LAYERS = Group(
  "layers",
  ("cpu",),
  {name: functools.partial(layer, name) for name in SPECS}
  | {theirs: torch("layer", name, SHAPE[1], SHAPE[0]) for name, theirs in _TORCH.items()},
  tuple(
    Ratio(_IDS[name], f"layer, {what} / literal PyTorch, 197 tokens, batch 16", name, _TORCH[name], 1.0)
    for name, what in _WHAT.items()
  ),
  needs="torch",
  optional=tuple(_TORCH.values()),
)

GROUPS = (LAYERS,)

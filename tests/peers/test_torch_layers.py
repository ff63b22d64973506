"""The PyTorch layers of the benchmarks compute what ours compute: same parameters, same outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.layers import SPECS, attention_spec
from convnn_jax.attention import make_attention
from convnn_jax.convert import convnn, zoo
from convnn_jax.convert.rules import to_flax

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="needs requirements-peers.txt")

B, N, C, COUNT = 2, 41, 192, 11
# Of one published layer each, for its table of parameter names.
CONVNN = dict(d_hidden=C, num_heads=1, K=9)
RULES = {
  "local": lambda: zoo.conversion(dict(module="LocalAttention", heads=3, window_size=16)),
  "sparse": lambda: zoo.conversion(dict(module="SparseAttention", d_hidden=C, num_heads=1)),
  "branching_attention": lambda: convnn.conversion(dict(module="BranchingAttention", **CONVNN)),
  "branching_conv": lambda: convnn.conversion(dict(module="BranchingConv", kernel_size=9, **CONVNN)),
  **dict.fromkeys(
    ("random", "spatial"), lambda: convnn.conversion(dict(module="MultiHeadConvNNAttention", **CONVNN))
  ),
}


def compare(name, ours=(), theirs=(), index=None):
  """Both with the same parameters and, if given, the same candidates; `ours` and `theirs` differ from the figure's."""
  from benchmarks.peers.layers import make_layer

  torch.manual_seed(0)
  layer = make_layer(name, tokens=N, **dict(theirs)).eval()
  with torch.no_grad():
    for parameter_name, parameter in layer.named_parameters():
      if parameter_name.endswith("conv.weight"):  # ones would hide the order of the neighbours
        parameter.normal_()
  collections = {}
  if index is not None:
    layer.candidates = lambda tokens, count: torch.tensor(index)
    collections["candidates"] = {"index": jnp.asarray(index, jnp.int32)}

  x, cotangent = np.random.default_rng(0).standard_normal((2, B, N, C)).astype(np.float32)
  module = make_attention({**attention_spec(name), **dict(ours)})
  state = {key: value.numpy() for key, value in layer.state_dict().items()}
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))["params"]
  params = to_flax(state, RULES[name]().rules, shapes)
  apply = lambda x: module.apply({"params": params, **collections}, x, train=False)
  out, backward = jax.vjp(apply, jnp.asarray(x))

  their_x = torch.tensor(x, requires_grad=True)
  expected = layer(their_x)
  expected.backward(torch.tensor(cotangent))
  np.testing.assert_allclose(out, expected.detach(), atol=1e-5)
  np.testing.assert_allclose(backward(jnp.asarray(cotangent))[0], their_x.grad, atol=1e-5)


def test_every_layer_is_compared():
  assert set(RULES) == set(SPECS)


@pytest.mark.parametrize("window", [8, 16, 41, 64])
def test_local(window):
  compare("local", dict(window_size=window), dict(window=window))


@pytest.mark.parametrize("pattern", ["all", "local", "strided"])
def test_sparse(pattern):
  compare("sparse", dict(pattern=pattern, window=7), dict(pattern=pattern, window=7))


@pytest.mark.parametrize("name", ["branching_attention", "branching_conv"])
def test_branching(name):
  compare(name)


def test_spatial():
  compare("spatial", dict(num_candidates=COUNT), dict(count=COUNT))


def test_random():
  index = np.random.default_rng(1).permutation(N)[:COUNT]
  compare("random", dict(num_candidates=COUNT), dict(count=COUNT), index)


def test_random_of_all():
  compare("random", dict(num_candidates=N), dict(count=N))


def test_candidates_of_the_figures_are_ours():
  from benchmarks.peers import layers
  from convnn_jax.ops.candidates import spatial_candidates

  np.testing.assert_array_equal(layers.spatial(197, 32), spatial_candidates(197, 32))
  drawn = layers.random(197, 32)
  assert len(set(drawn.tolist())) == 32
  assert drawn.min() >= 0
  assert drawn.max() < 197

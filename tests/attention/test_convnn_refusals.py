"""What ConvNN attention refuses, and what it says then."""

import jax.numpy as jnp
import pytest
from convnn_modules import apply_convnn, make_convnn, make_tokens, random_params

from convnn_jax.errors import UserError
from convnn_jax.ops.candidates import spatial_grid_candidates


@pytest.mark.parametrize(
  "spec",
  [
    dict(num_neighbors=8),
    dict(num_neighbors=0),
    dict(num_neighbors=6, candidates="random", num_candidates=5),
    dict(num_neighbors=7, candidates="spatial", num_candidates=5, quirks=("weak_self_mask",)),
    dict(num_neighbors=3, candidates="random", num_candidates=8),
    dict(num_neighbors=3, candidates="spatial", num_candidates=5, candidate_padding=2),
  ],
)
def test_too_few_candidates(spec):
  with pytest.raises(UserError, match="num_neighbors=|num_candidates="):
    random_params(make_convnn(**spec), jnp.ones((1, 7, 4)))


@pytest.mark.parametrize("num_candidates", [0, 8, 25])
def test_a_grid_of_candidates_is_square_and_fits(num_candidates):
  with pytest.raises(
    UserError, match=f"num_candidates={num_candidates} must be a square number from 1 to 16"
  ):
    spatial_grid_candidates(4, 5, num_candidates)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    (dict(similarity="cosin"), "Did you mean 'cosine'"),
    (dict(weighting="soft_max"), "Did you mean 'softmax'"),
    (dict(convolution="depthwise-separable"), "Did you mean 'depthwise_separable'"),
    (dict(projection="kqv"), "Did you mean 'qkv'"),
    (dict(candidates="randm"), "Did you mean 'random'"),
    (dict(quirks=("scrambled_head",)), "Did you mean 'scrambled_heads'"),
    (dict(num_neighbours=3), "Did you mean 'num_neighbors'"),
    (dict(num_heads=5), "num_heads=5 must divide the width 6"),
    (dict(temperature=0.0), "temperature=0.0 must be at least 1e-6"),
    (dict(coordinate_encoding=True), "coordinate_encoding=True changes the number of channels"),
    (dict(aggregate_on="positions"), "aggregate_on='positions' changes the number of channels"),
    (dict(similarity_on="position"), "Did you mean 'positions'"),
    (dict(coordinate_encoding=True, similarity_on="both"), "either it or the two words"),
    (dict(candidates="spatial_grid", num_candidates=4), "needs the TokenGrid of its 7 tokens"),
    (dict(value_features=3), "needs split_heads=False"),
    (dict(quirks=("distance_weights",)), "needs similarity='euclidean'"),
    (dict(quirks=("weak_self_mask",)), "needs sampled candidates; it has no effect"),
    (dict(quirks=("self_fill",), candidates="spatial", num_candidates=5), "needs candidates='all'"),
    (dict(weighting="sum", temperature=0.5), "temperature=0.5 has no effect with weighting='sum'"),
    (dict(candidate_padding=1), "candidate_padding=1 has no effect with candidates='all'"),
    (dict(candidate_padding=-1), "candidate_padding=-1 has no effect"),
    (dict(self_fill_value=0.5), "self_fill_value=0.5 has no effect without the quirk 'self_fill'"),
  ],
)
def test_mistakes_are_named(spec, message):
  with pytest.raises(UserError, match=message):
    random_params(make_convnn(**{"num_neighbors": 3} | spec), jnp.ones((1, 7, 6)))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(implementation="fast"), "Unknown implementation 'fast'"),
    (dict(implementation="pallas", similarity="cosine"), "needs similarity='dot'; use implementation='auto'"),
    (dict(implementation="pallas", candidates="random"), "needs candidates='all'"),
    (dict(implementation="pallas", convolution="standard"), "convolution='standard' is not in the kernel"),
    (dict(implementation="pallas", quirks=("self_fill",)), "The quirk 'self_fill' is not in the kernel"),
    (dict(implementation="pallas"), "a kernel for GPUs and this is a cpu"),
  ],
)
def test_implementations_that_cannot_run_are_refused(fields, message):
  x = make_tokens(1, 7, 6)
  params = random_params(make_convnn(num_neighbors=3), x)
  with pytest.raises(UserError, match=message):
    apply_convnn(make_convnn(num_neighbors=3, **fields), params, x)

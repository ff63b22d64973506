"""ConvNN attention: a convolution over each token's k nearest neighbours.

Source: Kang et al., "Attention Via Convolutional Nearest Neighbors" (arXiv 2511.14137), and the experiment
versions before it. Tokens are compared, the k nearest of each are chosen (hard selection), weighted by
their similarity and reduced by a convolution whose tap r meets the neighbour of rank r. With k = n,
softmax weights and a depthwise kernel of ones it is softmax attention.

What the published code does otherwise by accident is available as words in `quirks`:
  scrambled_heads   heads are merged by a reshape that mixes tokens and channels
  weak_self_mask    a sampled candidate that is the token itself gets the score -0.1 (distance 1.1) instead of
                    being excluded, so it can still be chosen
  rank_coordinates  the coordinate of a sampled candidate is its rank in the sample, not its position
  self_fill         a token's similarity (or distance) to itself is the constant `self_fill_value`
                    (candidates="all")
  distance_weights  similarity="euclidean" weighs a neighbour by its distance, so that farther counts more
                    (the first experiment versions; the final ones divide by it)
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnn_jax.attention.base import head_width, wants_weights
from convnn_jax.attention.convnn_rules import PROJECTIONS, check
from convnn_jax.errors import UserError
from convnn_jax.layers.dense import merge_dense, split_dense
from convnn_jax.layers.dropout import Dropout
from convnn_jax.layers.merge_heads import scramble_heads
from convnn_jax.layers.neighbor_conv import NeighborConvolution
from convnn_jax.layers.random_keys import random_key
from convnn_jax.ops import neighbors, selection
from convnn_jax.ops.candidates import random_candidates, spatial_candidates, spatial_grid_candidates
from convnn_jax.ops.loop_constants import inside
from convnn_jax.ops.neighbor_attention import neighbor_attention
from convnn_jax.ops.similarity import similarity_to_select


class ConvNNAttention(nn.Module):
  """x [b n c] -> [b n c].

  Attributes:
    num_heads: h; must divide c. The convolution is shared by the heads.
    num_neighbors: k, the length of the convolution; the token itself counts when it is chosen. With sampled
      candidates rank 1 is always the token itself, with score 1.
    similarity: "dot" (over sqrt(d)), "cosine" or "euclidean".
    weighting: "softmax" over the k scores, "similarity" (the scores themselves; 1 / distance), "full_softmax"
      (softmax over the whole row, then the k largest), "sum" (divided by their sum).
    temperature: divides the scores of a softmax.
    convolution: "depthwise" (starts as ones), "standard" or "depthwise_separable".
    projection: which inputs are projected: "qkv", "qk", "v" or "none".
    candidates: "all", "random" (drawn anew each step, shared by the batch; evaluation uses one fixed draw
      unless given a "candidates" rng), "spatial" (evenly spaced along the sequence) or "spatial_grid" (evenly
      spaced rows and columns of patches, our reading of the published README's "3x3"; needs `grid`).
    num_candidates: how many tokens are sampled; for "spatial_grid" it must be a square, 9 for 3x3. Has no part with
      candidates="all".
    candidate_padding: tokens left out at both ends by "spatial", of which alone it is.
    similarity_on: what is compared: "features", "positions" (the place along the sequence in [-1, 1], nothing
      projected) or "both" (the position as one more channel). The published README names such flags, its code has
      none: these two words are our definition.
    aggregate_on: what is convolved: "features", "positions" or "both".
    coordinate_encoding: True stands for "both" in the two, the published option.
    split_heads: False compares and aggregates over the full width (num_heads then has no part).
    value_features: channels of the value when heads are not split; 0 = the full width.
    dropout_rate: on the result of the convolution, before heads are merged.
    qkv_bias, out_bias, convolution_bias: biases (the first experiments had them all).
    quirks: published accidents to reproduce, see the top of this file.
    self_fill_value: the constant of the quirk "self_fill".
    implementation: of selection and aggregation: "auto" (by the kind of device), "gather", "onehot", "reference" (the
      definition, slow and large) or "pallas" (a kernel for GPUs, for dot products among all tokens, softmax weights
      and depthwise kernels; where there is a bias, "auto" instead); all give the same.
    dtype: compute dtype; scores, selection and softmax stay float32.

  Raises:
    UserError: a value outside the rules above.
  """

  num_heads: int = 1
  num_neighbors: int = 9
  similarity: str = "dot"
  weighting: str = "softmax"
  temperature: float = 1.0
  convolution: str = "depthwise"
  projection: str = "qkv"
  candidates: str = "all"
  num_candidates: int = 32
  candidate_padding: int = 0
  similarity_on: str = "features"
  aggregate_on: str = "features"
  coordinate_encoding: bool = False
  split_heads: bool = True
  value_features: int = 0
  dropout_rate: float = 0.1
  qkv_bias: bool = False
  out_bias: bool = False
  convolution_bias: bool = False
  quirks: tuple[str, ...] = ()
  self_fill_value: float = 1.1
  implementation: str = "auto"
  dtype: Any = None

  @nn.compact
  def __call__(self, x, *, train, context=None, bias=None, grid=None):
    """See Attention.__call__; `context` is possible with candidates="all" only."""
    check(self, context)
    c = x.shape[-1]
    d = self._head_width(c)
    source = x if context is None else context
    n, m = x.shape[1], source.shape[1]
    chosen = self._candidate_tokens(n, train, grid)  # None or [m'] token positions
    compared = source if chosen is None else jnp.take(source, chosen, axis=1)

    places = _positions(m)
    if chosen is None:
      places_compared = places
    else:
      places_compared = _positions(len(chosen)) if "rank_coordinates" in self.quirks else places[chosen]
    tokens = dict(query=x, key=compared, value=source)
    features = self._features(tokens)
    query = self._read(tokens, features, "query", _positions(n))
    key = self._read(tokens, features, "key", places_compared)
    value = self._read(tokens, features, "value", places)

    # The kernel takes no bias and shows no weights; the other implementations do both.
    if self.implementation == "pallas" and bias is None and not wants_weights(self):
      convolve = self._in_one_pass(query, key, value, d**-0.5)
    else:
      scores = similarity_to_select(query, key, kind=self.similarity, scale=d**-0.5)  # [b h n m]
      if bias is not None:
        full = jnp.broadcast_to(bias, (*scores.shape[:-1], m))
        scores = scores + (full if chosen is None else jnp.take(full, chosen, axis=-1))
      index, weights = self._choose(self._mask_self(scores, chosen), chosen)
      if wants_weights(self):
        self.sow("intermediates", "attention_weights", neighbors.dense_weights(index, weights, m))
      by_rank = "auto" if self.implementation == "pallas" else self.implementation
      convolve = functools.partial(
        neighbors.aggregate_neighbors, jnp.swapaxes(value, 1, 2), index, weights, implementation=by_rank
      )

    convolution = NeighborConvolution(
      d, self.convolution, bias=self.convolution_bias, dtype=self.dtype, name="convolution"
    )
    out = convolution(self.num_neighbors, value.shape[-1], convolve)  # [b h n d]
    out = Dropout(self.dropout_rate)(out, deterministic=not train)
    if "scrambled_heads" in self.quirks:
      out = scramble_heads(out)
    return merge_dense(c, c, bias=self.out_bias, name="out", dtype=self.dtype)(jnp.swapaxes(out, 1, 2))

  def _candidate_tokens(self, num_tokens, train, grid):
    """Token positions [m] of sampled candidates; None = all tokens."""
    if self.candidates == "all":
      return None
    if self.num_neighbors < 1:
      raise UserError(f"num_neighbors={self.num_neighbors} must be at least 1, the token itself.")
    if self.candidates == "spatial_grid":
      if grid is None or grid.num_tokens != num_tokens:
        raise UserError(
          f"candidates='spatial_grid' needs the TokenGrid of its {num_tokens} tokens, not {grid}; use"
          " candidates='spatial' where there is none."
        )
      places = spatial_grid_candidates(grid.rows, grid.columns, self.num_candidates, grid.num_prefix)
    # One candidate may be the token itself; the weak mask lets it be chosen a second time.
    most = self.num_candidates + ("weak_self_mask" in self.quirks)
    if self.num_neighbors > most:
      raise UserError(
        f"num_neighbors={self.num_neighbors} must be at most {most} with num_candidates={self.num_candidates}: the"
        " token itself and num_neighbors - 1 others are chosen."
      )
    if self.candidates == "spatial":
      return jnp.asarray(spatial_candidates(num_tokens, self.num_candidates, self.candidate_padding))
    if self.candidates == "spatial_grid":
      return jnp.asarray(places)
    if self.has_variable("candidates", "index"):  # a caller fixed the draw
      return jnp.asarray(self.get_variable("candidates", "index"))
    drawn = train or self.has_rng("candidates")
    key = random_key(self, "candidates") if drawn else jax.random.key(0)
    return random_candidates(key, num_tokens, self.num_candidates)

  def _head_width(self, width):
    return head_width(width, self._num_heads())

  def _num_heads(self):
    return self.num_heads if self.split_heads else 1

  def _channels(self, role):
    """Which channels the role has: "features", "positions" or "both"."""
    if self.coordinate_encoding:
      return "both"
    return self.aggregate_on if role == "value" else self.similarity_on

  def _features(self, tokens):
    """What has features among query, key and value, [b . c] -> [b . h d]; rows are queries, candidates keys."""
    tokens = {role: x for role, x in tokens.items() if self._channels(role) != "positions"}
    projected = {role: x for role, x in tokens.items() if role in PROJECTIONS[self.projection]}
    depth = {role: self._head_width(x.shape[-1]) for role, x in tokens.items()}
    whole = {role: x.reshape(*x.shape[:2], self._num_heads(), depth[role]) for role, x in tokens.items()}
    if self.value_features:
      depth["value"] = self.value_features
    return whole | split_dense(projected, self._num_heads(), depth, bias=self.qkv_bias, dtype=self.dtype)

  def _read(self, tokens, features, role, positions):
    """What the role sees of its tokens: [b . h d], d + 1 or 1 channels with positions [.]."""
    channels = self._channels(role)
    if channels == "features":
      return features[role]
    inputs = tokens[role]
    shape = (*inputs.shape[:2], self._num_heads(), 1)
    column = jnp.broadcast_to(positions[None, :, None, None], shape).astype(self.dtype or inputs.dtype)
    return column if channels == "positions" else jnp.concatenate([features[role], column], axis=-1)

  def _mask_self(self, scores, chosen):
    """Applies the rule for the score of a token against itself."""
    n, m = scores.shape[-2:]
    distance = self.similarity == "euclidean"
    if chosen is None:
      if "self_fill" not in self.quirks:
        return scores
      itself, value = jnp.eye(n, m, dtype=bool), self.self_fill_value * (-1 if distance else 1)
    else:
      itself = jnp.arange(n)[:, None] == chosen[None]
      weak = -1.1 if distance else -0.1  # distances are negated here
      value = weak if "weak_self_mask" in self.quirks else selection.hidden_score(scores.dtype)
    # Inside: in a loop over layers the mask and the number would be arrays of the size of the scores.
    return jnp.where(inside(scores, itself[None, None]), inside(scores, value), scores)

  def _in_one_pass(self, query, key, value, scale):
    """A function of the kernel, as of _choose and aggregate_neighbors."""
    by_head = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
    options = dict(scale=scale, temperature=self.temperature)
    return lambda kernel: neighbor_attention(*by_head, kernel, **options)[0]

  def _select(self, scores, count):
    method = "library" if self.implementation == "reference" else "auto"
    return selection.select_neighbors(scores, count, method)

  def _choose(self, scores, chosen):
    """Scores [b h n m] -> token index and weights, both [b h n k]."""
    if self.weighting == "full_softmax":
      # The floor keeps a row that is hidden as a whole finite.
      floor = selection.hidden_score(scores.dtype) / 2
      scores = jax.nn.softmax(jnp.maximum(scores / self.temperature, floor), axis=-1)
    measure = "distance" if "distance_weights" in self.quirks else self.similarity
    weigh = lambda values: neighbors.neighbor_weights(
      values, weighting=self.weighting, similarity=measure, temperature=self.temperature
    )
    if chosen is None:
      values, index = self._select(scores, self.num_neighbors)
      return index, weigh(values)
    itself = jnp.broadcast_to(jnp.arange(scores.shape[2], dtype=jnp.int32)[:, None], (*scores.shape[:3], 1))
    negated = self.similarity == "euclidean" and self.weighting != "full_softmax"  # that has probabilities
    self_value = jnp.full(itself.shape, -1.0 if negated else 1.0, scores.dtype)
    if self.num_neighbors == 1:  # the token itself, nothing is mixed
      return itself, weigh(self_value)
    values, index = self._select(scores, self.num_neighbors - 1)
    return (
      jnp.concatenate([itself, chosen[index]], axis=-1),
      weigh(jnp.concatenate([self_value, values], axis=-1)),
    )


def _positions(num_tokens):
  """Places along the sequence, evenly from -1 to 1: [n]."""
  return jnp.linspace(-1.0, 1.0, num_tokens, dtype=jnp.float32)

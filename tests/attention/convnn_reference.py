"""ConvNN attention written as loops over batch, head, token and neighbour. NumPy, float64."""

import numpy as np

TINY = 1e-8


def _heads(x, params, role, num_heads):
  """[n c] -> [n h d], projected if there are parameters for it."""
  if role not in params:
    return x.reshape(len(x), num_heads, -1)
  return np.einsum("nc,chd->nhd", x, params[role]["kernel"]) + params[role].get("bias", 0.0)


def _see(x, params, role, num_heads, position, what):
  """Features, the position as the only channel, or both: [n h .]."""
  column = np.tile(position[:, None, None], (1, num_heads, 1))
  if what == "positions":
    return column
  heads = _heads(x, params, role, num_heads)
  return heads if what == "features" else np.concatenate([heads, column], -1)


def _score(q, k, kind, d):
  """Larger = nearer."""
  if kind == "dot":
    return q @ k / np.sqrt(d)
  if kind == "cosine":
    return q @ k / (max(np.linalg.norm(q), 1e-12) * max(np.linalg.norm(k), 1e-12))
  return -np.linalg.norm(q - k)


def _weights(scores, weighting, similarity, temperature, by_distance):
  exp = lambda s: np.exp(np.asarray(s) / temperature)
  if weighting == "softmax":
    return exp(scores) / exp(scores).sum()
  weights = np.array(scores)
  if similarity == "euclidean":
    weights = -weights if by_distance else 1 / (-weights + TINY)
  return weights / weights.sum() if weighting == "sum" else weights


def _convolve(neighbors, params, convolution):
  """Weighted neighbours [k d] in order of rank -> [e]."""
  kernel, total = params["kernel"], params.get("bias", 0.0)
  for rank, neighbor in enumerate(neighbors):
    total = total + (neighbor @ kernel[rank] if convolution == "standard" else kernel[rank] * neighbor)
  if convolution == "depthwise_separable":
    total = total @ params["pointwise"]["kernel"] + params["pointwise"].get("bias", 0.0)
  return total


def convnn(
  x,
  params,
  *,
  num_heads,
  num_neighbors,
  similarity,
  weighting,
  convolution,
  temperature=1.0,
  chosen=None,
  similarity_on="features",
  aggregate_on="features",
  quirks=(),
  self_fill_value=1.1,
):
  """x [b n c] -> [b n c]; `chosen` are the sampled token positions."""
  n = x.shape[1]
  tokens = list(range(n)) if chosen is None else [int(t) for t in chosen]
  out = []
  for example in x:
    position = np.linspace(-1, 1, n)
    by_rank = "rank_coordinates" in quirks and chosen is not None
    of_key = np.linspace(-1, 1, len(tokens)) if by_rank else position[tokens]
    query = _see(example, params, "query", num_heads, position, similarity_on)
    key = _see(example[tokens], params, "key", num_heads, of_key, similarity_on)
    value = _see(example, params, "value", num_heads, position, aggregate_on)
    d = x.shape[-1] // num_heads
    mixed = []
    for i in range(n):
      heads = []
      for h in range(num_heads):
        row = [_score(query[i, h], key[j, h], similarity, d) for j in range(len(tokens))]
        for j, token in enumerate(tokens):
          if token == i and chosen is not None:
            weak = -1.1 if similarity == "euclidean" else -0.1
            row[j] = weak if "weak_self_mask" in quirks else -np.inf
          elif token == i and "self_fill" in quirks:
            row[j] = -self_fill_value if similarity == "euclidean" else self_fill_value
        if weighting == "full_softmax":  # probabilities of the row are what is ranked and used
          row = list(np.exp(np.array(row) / temperature) / np.exp(np.array(row) / temperature).sum())
        take = num_neighbors - (chosen is not None)
        nearest = sorted(range(len(tokens)), key=lambda j: (-row[j], j))[:take]
        index, scores = [tokens[j] for j in nearest], [row[j] for j in nearest]
        if chosen is not None:
          negated = similarity == "euclidean" and weighting != "full_softmax"
          index, scores = [i, *index], [-1.0 if negated else 1.0, *scores]
        if weighting == "full_softmax":
          weights = np.array(scores)
        else:
          by_distance = "distance_weights" in quirks
          weights = _weights(scores, weighting, similarity, temperature, by_distance)
        neighbors = [w * value[j, h] for w, j in zip(weights, index, strict=True)]
        heads.append(_convolve(neighbors, params["convolution"], convolution))
      mixed.append(np.concatenate(heads))
    merged = np.stack(mixed)
    kernel = params["out"]["kernel"]
    out.append(merged @ kernel.reshape(-1, kernel.shape[-1]) + params["out"].get("bias", 0.0))
  return np.stack(out)

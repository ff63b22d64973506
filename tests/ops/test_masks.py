"""Masks and rotation against plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.errors import UserError
from convnn_jax.ops import masks
from convnn_jax.ops.rotary import rotate
from convnn_jax.ops.selection import keep_neighbors


def _loop(num_tokens, sees):
  return np.array([[sees(i, j) for j in range(num_tokens)] for i in range(num_tokens)], bool)


def test_band_and_stride():
  np.testing.assert_array_equal(masks.band(11, 3), _loop(11, lambda i, j: -3 <= i - j <= 3))
  np.testing.assert_array_equal(masks.strided(11, 4), _loop(11, lambda i, j: abs(i - j) in (0, 4, 8)))
  with pytest.raises(UserError, match="window=0 must be at least 1"):
    masks.strided(4, 0)


@pytest.mark.parametrize(("backward", "forward"), [(1, 1), (0, 1), (2, 0)])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_local_windows(backward, forward, exact, causal):
  window = 3

  def sees(i, j):
    near = i // window - backward <= j // window <= i // window + forward
    if exact and not j - window * forward <= i <= j + window * backward:
      near = near and causal and i >= j and i <= j + window * backward
    return near and (j <= i or not causal)

  mask = masks.local_windows(11, window, backward=backward, forward=forward, exact=exact, causal=causal)
  np.testing.assert_array_equal(mask, _loop(11, sees))


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_neighborhood(dilation, stride, window, causal):
  n = 11

  def sees(i, j):
    if i % dilation != j % dilation:
      return False
    length = len(range(i % dilation, n, dilation))
    i, j = i // dilation, j // dilation
    if causal:
      leader = min(i // stride * stride + stride - 1, length - 1)
      return j <= i and leader - j < window
    center = min(i // stride * stride + stride // 2, length - 1)
    center = max(center, window // 2)
    center = min(center, length - 1 - (window // 2 + window % 2 - 1))
    return center - window // 2 <= j <= center + window // 2 + window % 2 - 1

  mask = masks.neighborhood(n, window, dilation=dilation, stride=stride, causal=causal)
  np.testing.assert_array_equal(mask, _loop(n, sees))
  if not causal:
    assert (mask.sum(axis=1) == window).all()


def test_a_neighborhood_must_fit():
  with pytest.raises(UserError, match="window_size=4 times dilation=3 must be at most 11"):
    masks.neighborhood(11, 4, dilation=3)


def test_prefix_tokens_see_all_and_are_seen():
  mask = masks.with_prefix(np.eye(3, dtype=bool), 2)
  np.testing.assert_array_equal(mask, _loop(5, lambda i, j: i == j or i < 2 or j < 2))


def test_rotation_turns_pairs_and_keeps_float32_angles():
  x = np.random.default_rng(0).standard_normal((2, 5, 3, 6)).astype(np.float32)
  expected = np.zeros_like(x)
  for p in range(5):
    for pair in range(3):
      angle = (p + 300) * 10000.0 ** (-2 * pair / 6)
      a, b = x[:, p, :, pair], x[:, p, :, pair + 3]
      expected[:, p, :, pair] = a * np.cos(angle) - b * np.sin(angle)
      expected[:, p, :, pair + 3] = b * np.cos(angle) + a * np.sin(angle)
  np.testing.assert_allclose(rotate(x, np.arange(5) + 300), expected, atol=1e-4)
  low = rotate(jnp.asarray(x, jnp.bfloat16), np.arange(5) + 300)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(low.astype(np.float32), expected, atol=0.05)


def test_exactly_k_are_kept_and_ties_go_to_the_lowest_index():
  scores = np.random.default_rng(1).integers(0, 3, (2, 2, 6, 9)).astype(np.float32)
  scores[0, 0, 0, :3] = [-np.inf, np.nan, 0.0]
  scores[0, 0, 1] = -np.inf
  for k in (1, 4, 9):
    kept = np.asarray(keep_neighbors(jnp.asarray(scores), k))
    for row in np.ndindex(2, 2, 6):
      values = np.where(np.isnan(scores[row]), -np.inf, scores[row])
      best = sorted(range(9), key=lambda m, values=values: (-values[m], m))[:k]
      np.testing.assert_array_equal(np.flatnonzero(kept[row]), sorted(best))

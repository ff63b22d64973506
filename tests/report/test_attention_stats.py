"""Numbers that describe attention, against plain loops and known matrices."""

import math

import numpy as np
import pytest

from convnn_jax.attention import TokenGrid
from convnn_jax.ops.windows import window_places
from convnn_jax.report.attention_stats import COLUMNS, statistics
from convnn_jax.report.token_places import in_windows, spanning


def test_uniform_attention():
  found = statistics(np.full((2, 1, 9, 9), 1 / 9), spanning(TokenGrid(3, 3)))
  assert found["entropy"] == pytest.approx(1)
  assert found["effective_tokens"] == pytest.approx(9)
  assert (found["diagonal"], found["uniform"]) == pytest.approx((1 / 9, 1 / 9))
  assert found["identity"] == pytest.approx(math.sqrt(1 - 1 / 9))
  assert found["asymmetry"] == 0
  assert found["zeros"] == 0
  apart = [math.dist((a // 3, a % 3), (b // 3, b % 3)) for a in range(9) for b in range(9)]
  assert found["distance"] == pytest.approx(sum(apart) / 81)


def test_each_token_sees_itself():
  found = statistics(2 * np.eye(5)[None], spanning(TokenGrid(2, 2, num_prefix=1)))
  assert found["entropy"] == pytest.approx(0, abs=1e-12)
  assert found["effective_tokens"] == pytest.approx(1)
  assert found["diagonal"] == pytest.approx(1)
  assert found["zeros"] == pytest.approx(0.8)
  assert found["distance"] == 0
  assert [found[f"row_sum_{name}"] for name in ("min", "mean", "max")] == [2, 2, 2]


@pytest.mark.parametrize(
  ("matrix", "distance"),
  [
    (np.eye(4), 0),
    (-np.eye(4), 2),
    (np.full((4, 4), 0.25), math.sqrt(0.75)),
    (np.roll(np.eye(4), 1, axis=1), math.sqrt(2)),  # each token sees its neighbour only
    (0.5 * np.eye(4) + 0.5 * np.roll(np.eye(4), 1, axis=1), math.sqrt(0.5)),
  ],
)
def test_distance_to_the_identity(matrix, distance):
  assert statistics(matrix[None])["identity"] == pytest.approx(distance, abs=1e-12)
  # The mean over matrices, not of all rows together.
  both = statistics(np.stack([matrix, np.eye(4)]))
  assert both["identity"] == pytest.approx(distance / 2, abs=1e-12)


def test_pairs_that_a_shift_or_padding_brings_together_do_not_count():
  """Uniform over what is visible, with nonsense elsewhere: as uniform attention in windows of several sizes."""
  places = in_windows(window_places((3, 6), (4, 6), (2, 3), (1, 1), "roll"))
  visible = places.visible
  counts = visible.sum(-1)
  assert {0, 6} < set(counts.ravel())  # padding, whole windows, and parts
  uniform = np.where(visible, 1 / np.maximum(counts, 1)[..., None], 0.3)
  found = statistics(uniform[None], places)
  used = counts > 0
  assert found["entropy"] == pytest.approx(1)
  assert (found["diagonal"], found["uniform"]) == pytest.approx(((1 / counts[used]).mean(),) * 2)
  assert found["effective_tokens"] == pytest.approx(counts[used].mean())
  assert (found["row_sum_min"], found["row_sum_max"]) == pytest.approx((1, 1))
  assert found["zeros"] == found["asymmetry"] == pytest.approx(0, abs=1e-12)
  per_window = [math.sqrt(np.mean(1 - 1 / c[c > 0])) for c in counts if (c > 0).any()]
  assert found["identity"] == pytest.approx(np.mean(per_window))
  # The same pairs are far apart in the image: a distance over all of them would be larger.
  row, column = np.divmod(places.tokens, 6)
  apart = np.hypot(row[:, :, None] - row[:, None], column[:, :, None] - column[:, None])
  rows = [apart[w, i][visible[w, i]].mean() for w, i in np.argwhere(used)]
  assert found["distance"] == pytest.approx(np.mean(rows))
  alone = statistics(np.where(visible, np.eye(6), 0.3)[None], places)
  assert alone["diagonal"] == 1
  assert alone["entropy"] == alone["identity"] == alone["distance"] == 0


def test_against_loops():
  weights = np.random.default_rng(0).uniform(0, 1, (3, 5, 5))
  found = statistics(weights, spanning(TokenGrid(2, 2, num_prefix=1)), row_error=np.array([1e-3, 2e-3]))
  entropies, effective, diagonal, asymmetry, distances = [], [], [], [], []
  for matrix in weights:
    asymmetry.append(max(abs(matrix[i, j] - matrix[j, i]) for i in range(5) for j in range(5)))
    for i, row in enumerate(matrix):
      shares = [value / sum(row) for value in row]
      entropies.append(-sum(p * math.log(p) for p in shares))
      effective.append(math.exp(entropies[-1]))
      diagonal.append(shares[i])
      if i:  # token 0 is a class token and has no place
        place = lambda token: ((token - 1) // 2, (token - 1) % 2)
        seen = sum(shares[1:])
        distances.append(sum(shares[j] / seen * math.dist(place(i), place(j)) for j in range(1, 5)))
  mean = lambda values: sum(values) / len(values)
  assert found["entropy"] == pytest.approx(mean(entropies) / math.log(5))
  assert found["effective_tokens"] == pytest.approx(mean(effective))
  assert found["diagonal"] == pytest.approx(mean(diagonal))
  assert found["asymmetry"] == pytest.approx(mean(asymmetry))
  assert found["distance"] == pytest.approx(mean(distances))
  assert found["column_sum_max"] == pytest.approx(weights.sum(1).max())
  assert found["row_error"] == 2e-3


def test_what_has_no_meaning_is_missing():
  signed = statistics(np.array([[[0.5, -0.5], [1.0, 1.0]]]), spanning(TokenGrid(1, 2)))
  assert signed["entropy"] is signed["effective_tokens"] is signed["diagonal"] is signed["distance"] is None
  assert signed["asymmetry"] == 1.5
  assert statistics(np.zeros((1, 3, 3)))["entropy"] is None
  rectangular = statistics(np.full((1, 2, 4), 0.25))
  assert rectangular["asymmetry"] is rectangular["diagonal"] is None
  assert rectangular["entropy"] == pytest.approx(1)


def test_every_number_has_a_column():
  keys = {column.key for column in COLUMNS} - {"run", "layer", "head"}
  assert keys == statistics(np.ones((1, 2, 2))).keys()

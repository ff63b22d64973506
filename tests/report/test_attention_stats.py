"""Numbers that describe attention, against plain loops and known matrices."""

import math

import numpy as np
import pytest

from convnn_jax.attention import TokenGrid
from convnn_jax.report.attention_stats import COLUMNS, statistics


def test_uniform_attention():
  found = statistics(np.full((2, 1, 9, 9), 1 / 9), TokenGrid(3, 3))
  assert found["entropy"] == pytest.approx(1)
  assert found["effective_tokens"] == pytest.approx(9)
  assert found["diagonal"] == pytest.approx(1 / 9)
  assert found["asymmetry"] == 0
  assert found["zeros"] == 0
  apart = [math.dist((a // 3, a % 3), (b // 3, b % 3)) for a in range(9) for b in range(9)]
  assert found["distance"] == pytest.approx(sum(apart) / 81)


def test_each_token_sees_itself():
  found = statistics(2 * np.eye(5)[None], TokenGrid(2, 2, num_prefix=1))
  assert found["entropy"] == pytest.approx(0, abs=1e-12)
  assert found["effective_tokens"] == pytest.approx(1)
  assert found["diagonal"] == pytest.approx(1)
  assert found["zeros"] == pytest.approx(0.8)
  assert found["distance"] == 0
  assert [found[f"row_sum_{name}"] for name in ("min", "mean", "max")] == [2, 2, 2]


def test_against_loops():
  weights = np.random.default_rng(0).uniform(0, 1, (3, 5, 5))
  found = statistics(weights, TokenGrid(2, 2, num_prefix=1), row_error=np.array([1e-3, 2e-3]))
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
  signed = statistics(np.array([[[0.5, -0.5], [1.0, 1.0]]]), TokenGrid(1, 2))
  assert signed["entropy"] is signed["effective_tokens"] is signed["diagonal"] is signed["distance"] is None
  assert signed["asymmetry"] == 1.5
  assert statistics(np.zeros((1, 3, 3)))["entropy"] is None
  rectangular = statistics(np.full((1, 2, 4), 0.25))
  assert rectangular["asymmetry"] is rectangular["diagonal"] is None
  assert rectangular["entropy"] == pytest.approx(1)


def test_every_number_has_a_column():
  keys = {column.key for column in COLUMNS} - {"run", "layer", "head"}
  assert keys == statistics(np.ones((1, 2, 2))).keys()

"""Windows against plain loops and stored constants of the published code."""

import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.errors import UserError
from convnn_jax.ops import windows
from convnn_jax.ops.resize import bicubic_matrix, resize_table

GOLDEN = Path(__file__).parents[1] / "golden" / "swin"
# grid, window, shift
CASES = [
  ((8, 8), (4, 4), (2, 2)),
  ((6, 8), (3, 4), (1, 2)),
  ((4, 6), (4, 3), (0, 1)),
  ((4, 4), (2, 2), (0, 0)),
]


@pytest.mark.parametrize(("grid", "window", "step"), CASES)
def test_partition_orders_windows_and_their_tokens_row_by_row(grid, window, step):
  del step
  x = np.arange(2 * grid[0] * grid[1] * 3).reshape(2, *grid, 3)
  cut = windows.partition(x, window)
  place = 0
  for b in range(2):
    for top in range(0, grid[0], window[0]):
      for left in range(0, grid[1], window[1]):
        tokens = [x[b, top + i, left + j] for i in range(window[0]) for j in range(window[1])]
        np.testing.assert_array_equal(cut[place], tokens)
        place += 1
  assert place == len(cut)
  np.testing.assert_array_equal(windows.reverse(cut, window, grid), x)


@pytest.mark.parametrize(("grid", "window", "step"), CASES)
def test_unshifting_a_map_of_positions_is_the_identity(grid, window, step):
  tokens = windows.window_tokens(grid, window, step)
  image = np.zeros(grid[0] * grid[1], int)
  image[tokens] = tokens  # each window's values put back where its tokens stand
  np.testing.assert_array_equal(image, np.arange(image.size))
  positions = jnp.arange(image.size).reshape(1, *grid, 1)
  cut = windows.partition(windows.shift(positions, step), window)
  np.testing.assert_array_equal(cut[..., 0], tokens)
  back = windows.shift(windows.reverse(cut, window, grid), (-step[0], -step[1]))
  np.testing.assert_array_equal(back, positions)


@pytest.mark.parametrize(("grid", "window", "step"), CASES)
def test_tokens_of_a_window_see_each_other_where_they_are_neighbours_in_the_image(grid, window, step):
  tokens = windows.window_tokens(grid, window, step)
  mask = windows.same_region(grid, window, step)
  for w, i, j in itertools.product(*map(range, mask.shape)):
    apart_in_window = (i // window[1] - j // window[1], i % window[1] - j % window[1])
    here, there = tokens[w, i], tokens[w, j]
    apart = (here // grid[1] - there // grid[1], here % grid[1] - there % grid[1])
    assert mask[w, i, j] == (apart == apart_in_window)


def test_padding_is_not_inside():
  present = windows.inside((3, 5), (4, 6), (2, 3), (1, 1))
  tokens = windows.window_tokens((4, 6), (2, 3), (1, 1))
  np.testing.assert_array_equal(present, (tokens // 6 < 3) & (tokens % 6 < 5))
  assert present.sum() == 15


@pytest.mark.parametrize("window", [(4, 4), (2, 3), (1, 1)])
def test_relative_index_is_a_row_per_offset(window):
  index = windows.relative_index(window)
  for i, j in itertools.product(range(window[0] * window[1]), repeat=2):
    down, across = i // window[1] - j // window[1], i % window[1] - j % window[1]
    assert index[i, j] == (down + window[0] - 1) * (2 * window[1] - 1) + across + window[1] - 1


def test_log_coordinates_follow_their_formula():
  table = windows.log_coordinates((3, 4), (0, 9)).reshape(5, 7, 2)
  for row, column in itertools.product(range(5), range(7)):
    expected = [8 * (row - 2) / 2, 8 * (column - 3) / 8]
    expected = [np.sign(u) * np.log2(1 + abs(u)) / 3 for u in expected]
    np.testing.assert_allclose(table[row, column], expected, atol=1e-6)
  np.testing.assert_array_equal(windows.log_coordinates((1, 1)), [[0, 0]])


def test_stored_constants_of_the_published_code():
  kinds = set()
  for path in sorted(GOLDEN.glob("*.npz")):
    with np.load(path) as file:
      for name in file.files:
        kind = name.rpartition(".")[2].removeprefix("param:")
        if kind == "relative_position_index":
          side = (2, 3) if "rect" in path.stem else (round(len(file[name]) ** 0.5),) * 2
          np.testing.assert_array_equal(windows.relative_index(side), file[name])
        elif kind == "attn_mask":
          grid = (round(len(file[name]) ** 0.5) * 4,) * 2
          np.testing.assert_array_equal(~windows.same_region(grid, (4, 4), (2, 2)), file[name] == -100)
        elif kind == "relative_coords_table":
          pretrained = (3, 3) if "pretrained" in path.stem else (0, 0)
          ours = windows.log_coordinates((4, 4), pretrained)
          np.testing.assert_array_equal(ours, file[name].reshape(-1, 2))
        else:
          continue
        kinds.add(kind)
  assert len(kinds) == 3


@pytest.mark.parametrize(
  ("grid", "window", "expected"),
  [
    ((14, 14), (7, 7), ((7, 7), (3, 3))),
    ((7, 7), (7, 7), ((7, 7), (0, 0))),
    ((4, 8), (7, 7), ((4, 4), (0, 0))),  # as published: the shorter side decides
    ((7, 14), (7, 7), ((7, 7), (0, 0))),
    ((4, 16), (6, 8), ((4, 8), (0, 4))),  # unequal sides: each axis by itself
    ((12, 16), (6, 8), ((6, 8), (3, 4))),
  ],
)
def test_window_is_fitted_to_the_grid(grid, window, expected):
  assert windows.fit_window(grid, window, (window[0] // 2, window[1] // 2)) == expected


def test_mistakes_are_named():
  with pytest.raises(UserError, match="window of 3 x 3 tokens cannot tile a grid of 4 x 6"):
    windows.partition(np.zeros((1, 4, 6, 1)), (3, 3))
  for value in ((1, 2, 3), (1.5, 2), -1, ()):
    with pytest.raises(UserError, match="must be a whole number or a pair"):
      windows.pair("model.window_size", value)
  assert windows.pair("x", 3) == windows.pair("x", (3,)) == (3, 3)


def test_bicubic_keeps_constants_and_straight_lines():
  for old, new in ((4, 7), (7, 4), (13, 23)):
    matrix = bicubic_matrix(old, new)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    inner = (centre >= 1) & (centre <= old - 2)
    fraction = centre - np.floor(centre)
    # With -0.75 a line is not kept exactly: off by (a + 0.5) 2t (1 - t) (2t - 1), t the place between two values.
    off = -0.25 * 2 * fraction * (1 - fraction) * (2 * fraction - 1)
    np.testing.assert_allclose((matrix @ np.arange(old) - centre)[inner], off[inner], atol=1e-12)
  table = np.random.default_rng(0).normal(size=(12, 2))
  np.testing.assert_allclose(resize_table(table, (3, 4), (3, 4)), table, atol=1e-6)

"""Windows put back into the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from flax import traverse_util

from convnn_jax.attention import TokenGrid
from convnn_jax.models.swin_block import SwinBlock
from convnn_jax.ops.windows import window_places
from convnn_jax.report import capture
from convnn_jax.report.token_places import in_windows, spanning

# grid, grid filled up, window, shift, kind of shift
CASES = [
  ((8, 8), (8, 8), (4, 4), (2, 2), "roll"),
  ((8, 8), (8, 8), (4, 4), (0, 0), "roll"),
  ((6, 8), (6, 8), (3, 4), (1, 2), "roll"),
  ((4, 6), (4, 6), (4, 3), (0, 1), "roll"),
  ((5, 7), (6, 8), (3, 4), (1, 2), "roll"),
  ((8, 8), (8, 8), (4, 4), (2, 2), "pad"),
  ((5, 7), (6, 8), (3, 4), (1, 2), "pad"),
]


@pytest.mark.parametrize(("grid", "padded", "window", "step", "kind"), CASES)
def test_unshifting_a_map_of_positions_is_the_identity(grid, padded, window, step, kind):
  """The block itself cuts the positions into windows; the report puts them back."""
  positions = np.arange(1, 1 + grid[0] * grid[1], dtype=np.float32).reshape(grid)  # 0 is padding
  seen = []

  class Spy:
    name = "attention"

    def __call__(self, x, **_):
      seen.append(np.asarray(x)[..., 0])
      return x

  block = SwinBlock(None, 4, window, padding="window" if padded != grid else "none")
  block = block.bind({}, mutable=["intermediates"])
  back = block._in_windows(Spy(), jnp.asarray(positions[None, ..., None]), window, step, kind, train=False)
  np.testing.assert_array_equal(back[0, ..., 0], positions)
  (sown,) = block.variables["intermediates"]["attention_places"]
  places, (cut,) = in_windows(sown), seen
  assert (places.grid.rows, places.grid.columns) == grid
  np.testing.assert_array_equal(places.to_image(cut), positions)
  np.testing.assert_array_equal(places.tokens + 1, cut)

  for token in range(positions.size):
    window, place = places.find(*divmod(token, grid[1]))
    assert cut[window, place] == token + 1
    alone = places.row_to_image(cut[window], window)  # one window lies where its tokens are
    np.testing.assert_array_equal(alone, np.where(np.isin(positions, cut[window]), positions, np.nan))


@pytest.mark.parametrize(("grid", "padded", "window", "step", "kind"), CASES)
def test_tokens_see_each_other_where_they_are_neighbours_in_the_image(grid, padded, window, step, kind):
  places = in_windows(window_places(grid, padded, window, step, kind))
  for w, i, j in np.argwhere(np.ones_like(places.visible)):
    here, there = places.tokens[w, i], places.tokens[w, j]
    if here < 0 or there < 0:
      assert not places.visible[w, i, j]
      continue
    apart = np.subtract(divmod(here, grid[1]), divmod(there, grid[1]))
    in_window = np.subtract(divmod(i, window[1]), divmod(j, window[1]))
    assert places.visible[w, i, j] == (apart == in_window).all()
  groups = places.groups()
  assert groups.shape == grid
  for w, i, j in np.argwhere(places.visible):
    assert groups.ravel()[places.tokens[w, i]] == groups.ravel()[places.tokens[w, j]]
  different = {(w, row.tobytes()) for w, rows in enumerate(places.visible) for row in rows if row.any()}
  assert len(np.unique(groups)) == len(different)


def test_titles_name_rows_and_columns_in_the_order_of_the_window():
  places = in_windows(window_places((8, 8), (8, 8), (4, 4), (2, 2), "roll"))
  assert places.describe(0) == "rows 2-5, columns 2-5"
  assert places.describe(1) == "rows 2-5, columns 6-7, 0-1"
  assert places.describe(3) == "rows 6-7, 0-1, columns 6-7, 0-1"


def test_attention_over_all_tokens_is_one_window():
  places = spanning(TokenGrid(2, 3, num_prefix=1))
  assert places.find(1, 2) == (0, 6)
  assert not places.windowed
  np.testing.assert_array_equal(places.row_to_image(np.arange(7), 0), [[1, 2, 3], [4, 5, 6]])
  assert len(np.unique(places.groups())) == 1


def test_scores_that_the_shift_hides_are_not_shown():
  """A whole block: what is sown for the attention and for the branch of positions belongs to the right layer."""
  spatial = dict(name="spatial_mlp", num_heads=2)
  block = SwinBlock(dict(name="window", num_heads=2), 4, (2, 2), (1, 1), spatial_mlp=spatial)
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 4))
  run = lambda key, x: block.init_with_output(key, x, train=False, mutable=["params", "intermediates"])[1]
  sown = jax.device_get(fast_jit(run)(jax.random.key(1), x))
  found = traverse_util.flatten_dict({"block_0": sown["intermediates"]})
  attention, mixer = capture.find_layers(found, 2, (4, 4, 1))
  assert (attention.name, mixer.name) == ("block_0", "block_0/spatial_mlp")
  assert attention.weights.shape == (2, 4, 2, 4, 4)
  np.testing.assert_array_equal(attention.places.tokens[0], [5, 6, 9, 10])
  np.testing.assert_array_equal(
    mixer.places.tokens[0], [0, 1, 4, 5]
  )  # where the attention is shifted, this is not
  hidden = ~np.broadcast_to(attention.places.visible[None, :, None], attention.weights.shape)
  assert hidden.any()
  np.testing.assert_array_equal(np.isneginf(attention.scores), hidden)
  assert attention.weights[hidden].max() < 1e-30
  # Layers that were scanned have one axis more.
  stacked = {path: tuple(np.stack([v, v]) for v in values) for path, values in found.items()}
  again = capture.find_layers(stacked, 2, (4, 4, 1))
  assert [layer.name for layer in again][:2] == ["block_0/0", "block_0/1"]
  np.testing.assert_array_equal(again[1].places.tokens, attention.places.tokens)

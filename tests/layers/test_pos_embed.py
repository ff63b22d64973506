import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import resize_positions

TABLE = np.random.default_rng(0).normal(size=(1 + 12, 5)).astype(np.float32)


def sampled(image, rows, columns):
  """Bilinear by its definition: pixel centres at half-integers, edges repeated."""
  old_rows, old_columns, _ = image.shape
  result = np.zeros((rows, columns, image.shape[2]))
  for i, j in np.ndindex(rows, columns):
    y = np.clip((i + 0.5) * old_rows / rows - 0.5, 0, old_rows - 1)
    x = np.clip((j + 0.5) * old_columns / columns - 0.5, 0, old_columns - 1)
    for a, b in np.ndindex(old_rows, old_columns):
      result[i, j] += max(0, 1 - abs(y - a)) * max(0, 1 - abs(x - b)) * image[a, b]
  return result


@pytest.mark.parametrize("grid", [(6, 7), (2, 2), (3, 4), (9, 1)])
def test_grid_is_sampled_and_class_tokens_are_kept(grid):
  resized = resize_positions(jnp.asarray(TABLE), (3, 4), grid, num_prefix=1)
  np.testing.assert_array_equal(resized[0], TABLE[0])
  expected = sampled(TABLE[1:].reshape(3, 4, 5), *grid).reshape(-1, 5)
  np.testing.assert_allclose(resized[1:], expected, atol=1e-6)


def test_a_table_of_another_grid_is_refused():
  with pytest.raises(UserError, match="does not fit a grid of 3 x 4 tokens and 0 class tokens"):
    resize_positions(jnp.asarray(TABLE), (3, 4), (6, 6))

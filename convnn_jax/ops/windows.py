"""Windows of a grid of tokens: cutting, shifting, masks, relative positions.

Source: Liu et al., "Swin Transformer", section 3.2, and "Swin Transformer V2", section 3.3. Windows are
(rows, columns) pairs. What does not depend on the tokens is made at trace time with NumPy.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError


def pair(field: str, value: int | Sequence[int]) -> tuple[int, int]:
  """A size as (rows, columns): 7, (7,) and (7, 7) are the same.

  Raises:
    UserError: anything else.
  """
  sizes = tuple(value) if isinstance(value, Sequence) else (value,)
  if len(sizes) not in (1, 2) or any(not isinstance(size, (int, np.integer)) or size < 0 for size in sizes):
    raise UserError(f"{field}={value!r} must be a whole number or a pair (rows, columns) of them.")
  return (int(sizes[0]), int(sizes[-1]))


def fit_window(grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]):
  """Window and shift after fitting them to a grid that is not larger than the window: (window, shift).

  A square window is fitted as published: if the grid's shorter side is no longer than the window, that side is the
  side of the window, and nothing is shifted. A window of unequal sides is fitted along each axis by itself.
  """
  if window[0] == window[1]:
    side = min(grid)
    return ((side, side), (0, 0)) if side <= window[0] else (window, shift)
  fitted = tuple(min(length, side) for length, side in zip(grid, window, strict=True))
  shifts = (0 if length <= side else step for length, side, step in zip(grid, window, shift, strict=True))
  return fitted, tuple(shifts)


def missing(grid: tuple[int, int], window: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns that a grid lacks to be cut into whole windows."""
  return (-grid[0] % window[0], -grid[1] % window[1])


def partition(x, window: tuple[int, int]):
  """[b y x c] -> [b*w n c]: windows of an image row by row, tokens of a window row by row.

  Raises:
    UserError: the grid cannot be cut into whole windows.
  """
  b, rows, columns, c = x.shape
  if any(missing((rows, columns), window)):
    raise UserError(
      f"A window of {window[0]} x {window[1]} tokens cannot tile a grid of {rows} x {columns}; choose a"
      " model.window_size that divides it, another data.image_size or patch_size, or model.padding='window'."
    )
  n = window[0] * window[1]
  cut = x.reshape(b, rows // window[0], window[0], columns // window[1], window[1], c)
  return cut.swapaxes(2, 3).reshape(-1, n, c)


def reverse(windows, window: tuple[int, int], grid: tuple[int, int]):
  """The inverse of `partition`: [b*w n c] -> [b y x c]."""
  rows, columns = grid
  down, across = rows // window[0], columns // window[1]
  x = windows.reshape(-1, down, across, *window, windows.shape[-1])
  return x.swapaxes(2, 3).reshape(-1, rows, columns, windows.shape[-1])


def shift(x, step: tuple[int, int]):
  """Rolls the grid of x [b y x c] up and left by `step`; a negative step rolls back."""
  return jnp.roll(x, (-step[0], -step[1]), axis=(1, 2)) if any(step) else x


def window_tokens(grid: tuple[int, int], window: tuple[int, int], step: tuple[int, int]) -> np.ndarray:
  """Which token of the image stands at each place of the shifted windows: int32 [w n]."""
  tokens = np.arange(grid[0] * grid[1], dtype=np.int32).reshape(grid)
  rolled = np.roll(tokens, (-step[0], -step[1]), axis=(0, 1))
  return partition(rolled[None, :, :, None], window)[..., 0]


def regions(grid: tuple[int, int], window: tuple[int, int], step: tuple[int, int]) -> np.ndarray:
  """Numbers of the parts of each shifted window that are apart in the image: int32 [w n].

  Along each axis the rolled grid has three regions: all windows but the last, and the two parts of the last one, the
  second of which has come around from the other side.
  """
  along = []
  for length, side, by in zip(grid, window, step, strict=True):
    position = np.arange(length)
    along.append((position >= length - side).astype(np.int32) + (position >= length - by))
  region = along[0][:, None] * 3 + along[1][None]
  return partition(region[None, :, :, None], window)[..., 0]


def same_region(grid: tuple[int, int], window: tuple[int, int], step: tuple[int, int]) -> np.ndarray:
  """Which tokens of a shifted window are neighbours in the image, not across its border: bool [w n n]."""
  region = regions(grid, window, step)
  return region[:, :, None] == region[:, None]


def inside(grid: tuple[int, int], padded: tuple[int, int], window, step) -> np.ndarray:
  """Which places of the shifted windows hold tokens of the grid, not of its padding: bool [w n]."""
  present = np.zeros(padded, bool)
  present[: grid[0], : grid[1]] = True
  return present.reshape(-1)[window_tokens(padded, window, step)]


def around(window: tuple[int, int], step: tuple[int, int]) -> list[tuple[int, int]]:
  """Zeros before and behind the rows and the columns of a grid that shift its windows by `step` without a roll."""
  return [(side - by, by) if by else (0, 0) for side, by in zip(window, step, strict=True)]


def window_places(grid: tuple[int, int], padded: tuple[int, int], window, step, kind: str) -> np.ndarray:
  """What stands at each place of the shifted windows: int32 [w n 3].

  Args:
    grid: rows and columns of the image's tokens.
    padded: those after filling up to whole windows.
    window: rows and columns.
    step: the shift.
    kind: how windows are shifted, "roll" or "pad" (zeros around).

  Returns:
    Row and column in the image, -1 for padding; and the region: tokens of a window see one another only in the same.
  """
  places = np.stack(np.indices(padded, dtype=np.int32), axis=-1)
  places[np.any(places >= np.asarray(grid), axis=-1)] = -1
  if kind == "pad":
    places = np.pad(places, (*around(window, step), (0, 0)), constant_values=-1)
    cut = partition(places[None], window)
    return np.concatenate([cut, np.zeros_like(cut[..., :1])], axis=-1)
  cut = partition(np.roll(places, (-step[0], -step[1]), axis=(0, 1))[None], window)
  return np.concatenate([cut, regions(padded, window, step)[..., None]], axis=-1).astype(np.int32)


def relative_index(window: tuple[int, int]) -> np.ndarray:
  """Row of a table over offsets for query i and key j: int32 [n n], in [0, (2 rows - 1)(2 columns - 1))."""
  rows, columns = (axis.reshape(-1) for axis in np.indices(window))
  down = rows[:, None] - rows[None] + window[0] - 1
  across = columns[:, None] - columns[None] + window[1] - 1
  return (down * (2 * window[1] - 1) + across).astype(np.int32)


def log_coordinates(window: tuple[int, int], pretrained: tuple[int, int] = (0, 0)) -> np.ndarray:
  """Log-spaced coordinates of the offsets in a window: float32 [(2 rows - 1)(2 columns - 1), 2].

  sign(u) log2(1 + |u|) / 3 with u = 8 offset / (side - 1), so that the farthest offset is 1.06 away. In float32 from
  the start, as published.

  Args:
    window: rows and columns.
    pretrained: window in which the parameters were trained, whose side is the unit; 0 = this one.
  """
  axes = []
  for side, before in zip(window, pretrained, strict=True):
    offset = np.arange(1 - side, side, dtype=np.float32)
    unit = np.float32(max((before or side) - 1, 1))  # a window of one token has only the offset 0
    spread = offset / unit * np.float32(8)
    axes.append(np.sign(spread) * np.log2(np.abs(spread) + np.float32(1)) / np.float32(3))
  rows, columns = np.meshgrid(*axes, indexing="ij")
  return np.stack([rows, columns], axis=-1).reshape(-1, 2).astype(np.float32)

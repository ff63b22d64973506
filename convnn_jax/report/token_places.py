"""Where the tokens of an attention stand in the image, for windows as for attention over all tokens."""

import dataclasses

import numpy as np

from convnn_jax.attention import TokenGrid


@dataclasses.dataclass(frozen=True)
class Places:
  """The tokens of each window, put back into the image.

  Attributes:
    grid: rows and columns of the image's tokens; prefix tokens where attention spans all tokens.
    tokens: int [w n], number of the token on the grid, row by row; -1 for class tokens and padding.
    visible: bool [w n n], pairs that see each other: not across the border of the image, no padding; None = all.
  """

  grid: TokenGrid
  tokens: np.ndarray
  visible: np.ndarray | None = None

  @property
  def windowed(self) -> bool:
    """Whether the image's tokens are cut into windows."""
    return self.visible is not None

  def find(self, row: int, column: int) -> tuple[int, int]:
    """(window, place in it) of a token of the image."""
    window, place = np.argwhere(self.tokens == row * self.grid.columns + column)[0]
    return int(window), int(place)

  def to_image(self, values) -> np.ndarray:
    """Puts values [w n] back: [rows columns]."""
    image = np.full(self.grid.rows * self.grid.columns, np.nan)
    there = self.tokens >= 0
    image[self.tokens[there]] = np.asarray(values)[there]
    return image.reshape(self.grid.rows, self.grid.columns)

  def row_to_image(self, values, window: int) -> np.ndarray:
    """Puts the values [n] of one window back: [rows columns], NaN at the tokens of others."""
    every = np.full(self.tokens.shape, np.nan)
    every[window] = values
    return self.to_image(every)

  def groups(self) -> np.ndarray:
    """A number for each token, equal for those that see each other: int [rows columns]."""
    windows, n = self.tokens.shape
    first = np.zeros((windows, n), int) if self.visible is None else self.visible.argmax(-1)
    return self.to_image(first + n * np.arange(windows)[:, None]).astype(int)

  def describe(self, window: int) -> str:
    """For titles, in the order of the window: "rows 14-15, 0-1, columns 4-7"."""
    tokens = self.tokens[window][self.tokens[window] >= 0]
    rows, columns = (list(dict.fromkeys(axis.tolist())) for axis in np.divmod(tokens, self.grid.columns))
    return f"rows {_range(rows)}, columns {_range(columns)}"


def spanning(grid: TokenGrid) -> Places:
  """Those of attention over all tokens."""
  image = np.arange(grid.rows * grid.columns)
  return Places(grid, np.concatenate([np.full(grid.num_prefix, -1), image])[None])


def in_windows(sown) -> Places:
  """From what a backbone sows for an attention in windows, [w n 3] (ops/windows.py, window_places)."""
  row, column, region = np.moveaxis(np.asarray(sown), -1, 0)
  grid = TokenGrid(int(row.max()) + 1, int(column.max()) + 1)
  there = row >= 0
  visible = (region[:, :, None] == region[:, None]) & there[:, :, None] & there[:, None]
  return Places(grid, np.where(there, row * grid.columns + column, -1), visible)


def _range(numbers: list[int]) -> str:
  """[14, 15, 0] -> "14-15, 0"."""
  parts: list[list[int]] = []
  for number in numbers:
    if parts and number == parts[-1][-1] + 1:
      parts[-1].append(number)
    else:
      parts.append([number])
  return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)

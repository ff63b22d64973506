"""Drawing without global state: figures are objects with their own Agg canvas, and a file is the only output."""

import math
import pathlib
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

DPI = 110
PANEL = 2.7  # inches, side of a panel
UNSIGNED, SIGNED = "viridis", "RdBu_r"


def new_figure(rows: int, columns: int, *, width: float = PANEL, height: float = PANEL, **kwargs):
  """(figure, axes [rows columns]) of panels of the given size in inches."""
  figure = Figure(figsize=(columns * width + 1.2, rows * height + 0.9), layout="constrained")
  FigureCanvasAgg(figure)
  return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
  """Writes a PNG; returns its path."""
  figure.savefig(path, dpi=DPI)
  return path


def wrap(figure: Figure, text: str, *, fontsize: int) -> str:
  """The text in lines that fit the width of a figure; a letter is about 0.6 of its size wide."""
  return textwrap.fill(text, int(figure.get_figwidth() * 72 / (0.6 * fontsize)))


def blank(axis, text: str = "") -> None:
  """A panel without content, with the reason in it."""
  axis.set_axis_off()
  if text:
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=8, color="0.4", transform=axis.transAxes)


def common_scale(arrays) -> tuple[Normalize, str]:
  """One linear colour scale and its colours: from 0 to the largest, or even about 0 where values are negative."""
  values = np.concatenate([a[np.isfinite(a)].ravel() for a in arrays])
  low, high = float(values.min(initial=0)), float(values.max(initial=0))
  if low < 0:
    size = max(-low, high)
    return Normalize(-size, size), SIGNED
  return Normalize(0, high if high > 0 else 1), UNSIGNED


def colour_bar(figure, axes, scale, label: str) -> None:
  """One bar for all panels that share `scale`."""
  bar = figure.colorbar(ScalarMappable(*scale), ax=axes, shrink=0.9, pad=0.02)
  bar.set_label(label, fontsize=8)
  bar.ax.tick_params(labelsize=7)


def matrix(axis, values, scale, grid=None) -> None:
  """A heatmap of [n m]; light lines between rows of tokens, a line behind the prefix tokens."""
  _paint(axis, np.ma.masked_invalid(values), scale)
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.yaxis.get_major_locator().set_params(integer=True)
  axis.set_facecolor("0.75")  # hidden scores, which are minus infinity
  axis.tick_params(labelsize=7)
  n, m = values.shape
  if grid is not None and n == m:
    for row in range(1 if not grid.num_prefix else 0, grid.rows):
      style = dict(color="white", lw=1.2 if row == 0 else 0.4, alpha=0.9 if row == 0 else 0.45)
      axis.axvline(grid.num_prefix + row * grid.columns - 0.5, **style)
      axis.axhline(grid.num_prefix + row * grid.columns - 0.5, **style)
  axis.set_xlim(-0.5, m - 0.5)
  axis.set_ylim(n - 0.5, -0.5)


def image(axis, pixels) -> None:
  """An image [y x c] with values in [0, 1]; axes in pixels."""
  pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
  axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  axis.tick_params(labelsize=7)


def token_map(axis, values, scale) -> None:
  """A map [rows columns] of the tokens of an image; grey where a value is missing."""
  _paint(axis, np.ma.masked_invalid(values), scale)
  axis.set_facecolor("0.75")
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.yaxis.get_major_locator().set_params(integer=True)
  axis.tick_params(labelsize=7)


def _paint(axis, values, scale, **kwargs) -> None:
  norm, colours = scale
  axis.imshow(values, norm=norm, cmap=colours, **{"interpolation": "nearest", **kwargs})


def overlay(axis, pixels, values, scale) -> None:
  """A map [rows columns] over the grey image, smoothly enlarged where it is complete."""
  y, x = pixels.shape[:2]
  axis.imshow(pixels.mean(-1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
  extent = (-0.5, x - 0.5, y - 0.5, -0.5)
  smooth = "bilinear" if np.isfinite(values).all() else "nearest"
  _paint(axis, np.ma.masked_invalid(values), scale, alpha=0.6, interpolation=smooth, extent=extent)
  axis.set_xlim(-0.5, x - 0.5)
  axis.set_ylim(y - 0.5, -0.5)
  axis.tick_params(labelsize=7)


def box(axis, row: int, column: int, size, colour: str = "red") -> None:
  """Frames the token (row, column) on an image; `size` = (y, x) pixels of a token."""
  corner = (column * size[1] - 0.5, row * size[0] - 0.5)
  axis.add_patch(Rectangle(corner, size[1], size[0], fill=False, edgecolor=colour, lw=1.6))


def borders(axis, groups) -> None:
  """White lines on a token map between neighbours of different groups, int [rows columns]."""
  style = dict(colors="white", lw=0.8, alpha=0.8)
  for row, column in np.argwhere(groups[1:] != groups[:-1]):
    axis.hlines(row + 0.5, column - 0.5, column + 0.5, **style)
  for row, column in np.argwhere(groups[:, 1:] != groups[:, :-1]):
    axis.vlines(column + 0.5, row - 0.5, row + 0.5, **style)


def nice_bins(arrays, count: int = 60) -> np.ndarray:
  """Edges of equal bins over all finite values."""
  values = np.concatenate([a[np.isfinite(a)].ravel() for a in arrays])
  low, high = float(values.min()), float(values.max())
  if math.isclose(low, high):
    low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
  return np.linspace(low, high, count + 1)

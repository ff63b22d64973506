"""Pictures of attention: rows are heads, columns are runs."""

import numpy as np

from convnn_jax.report import figures
from convnn_jax.report.capture import Capture, Layer


def _title(axis, text: str) -> None:
  axis.set_title(text, fontsize=8)


def _heading(figure, text: str) -> None:
  figure.suptitle(text, fontsize=10)


def heatmaps(captures, layers: list[Layer | None], image: int, heads: list[int], window: int, heading: str):
  """Scores (where a variant has them) and weights [n m] of every head.

  One colour scale for all scores, one for all weights; runs with negative weights have one of their own.
  """
  panels = []  # (kind of scale, array, capture, layer)
  for capture, layer in zip(captures, layers, strict=True):
    if layer is None:
      continue
    if layer.scores is not None:
      panels.append(("score before normalisation (grey: hidden)", layer.scores, capture, layer))
    kind = "weight" if layer.weights.min() >= 0 else "weight (of either sign)"
    panels.append((kind, layer.weights, capture, layer))
  figure, axes = figures.new_figure(len(heads), len(panels))
  for kind in dict.fromkeys(panel[0] for panel in panels):
    columns = [c for c, panel in enumerate(panels) if panel[0] == kind]
    drawn = [panels[c][1][image, window, h] for c in columns for h in heads if _has(panels[c][3], h, window)]
    if not drawn:  # none of these runs has this head or window
      for axis in axes[:, columns].flat:
        figures.blank(axis, "no such head or window")
      continue
    scale = figures.common_scale(drawn)
    for column in columns:
      _, values, capture, layer = panels[column]
      for row, head in enumerate(heads):
        axis = axes[row, column]
        if not _has(layer, head, window):
          figures.blank(axis, "no such head or window")
          continue
        figures.matrix(axis, values[image, window, head], scale, layer.grid)
        _title(axis, f"{capture.name}\n{layer.name}, head {head}: {kind.split()[0]}s")
        axis.set_ylabel("query token", fontsize=8)
        axis.set_xlabel("key token", fontsize=8)
    figures.colour_bar(figure, axes[:, columns], scale, kind)
  _heading(figure, heading)
  return figure


def _has(layer: Layer | None, head: int, window: int) -> bool:
  return layer is not None and window < layer.weights.shape[1] and head < layer.weights.shape[2]


def histograms(captures, layers: list[Layer | None], image: int, heads: list[int], heading: str):
  """Counts of weights over all windows, the diagonal apart; a line at 1 / n; same bins everywhere."""
  values = lambda layer, head: layer.weights[image, :, head]
  drawn = [values(layer, h) for layer in layers for h in heads if _has(layer, h, 0)]
  bins = figures.nice_bins(drawn)
  figure, axes = figures.new_figure(len(heads), len(captures), width=3.8, height=2.4, sharey=True)
  for column, (capture, layer) in enumerate(zip(captures, layers, strict=True)):
    for row, head in enumerate(heads):
      axis = axes[row, column]
      if not _has(layer, head, 0):
        figures.blank(axis, "no such head")
        continue
      weights = values(layer, head)
      n, m = weights.shape[-2:]
      own = np.broadcast_to(np.eye(n, m, dtype=bool), weights.shape)
      axis.hist(weights[~own], bins, label="off the diagonal", color="tab:blue", alpha=0.75)
      axis.hist(weights[own], bins, label="diagonal", color="tab:orange", alpha=0.75)
      axis.axvline(1 / m, color="black", ls="--", lw=1, label=f"1/n = {1 / m:.4g}")
      axis.set_yscale("log")
      axis.set_ylim(bottom=0.5)
      axis.set_xlim(bins[0], bins[-1])
      axis.tick_params(labelsize=7)
      axis.set_xlabel("weight", fontsize=8)
      axis.set_ylabel("number of pairs", fontsize=8)
      axis.legend(fontsize=7)
      _title(axis, f"{capture.name}\n{layer.name}, head {head}")
  _heading(figure, heading)
  return figure


def query_maps(captures, layers: list[Layer | None], image: int, heads: list[int], place, heading: str):
  """What one query token attends to: weights in units of 1 / n on the token grid, and over the image.

  Args:
    place: (row, column) of the query as fractions of the image's height and width.
  """
  found = [(c, layer) for c, layer in zip(captures, layers, strict=True) if layer and layer.grid]
  figure, axes = figures.new_figure(len(heads), 1 + 2 * len(found))
  relative = {}
  for column, (_, layer) in enumerate(found):
    for head in (h for h in heads if _has(layer, h, 0)):
      token = locate(layer.grid, place)
      row_of_weights = layer.weights[image, 0, head][_index(layer.grid, token)]
      relative[column, head] = row_of_weights * layer.weights.shape[-1]
  on_grid = lambda layer, values: values[layer.grid.num_prefix :].reshape(layer.grid.rows, layer.grid.columns)
  # Runs with negative weights have a scale of their own.
  signed = [layer.weights.min() < 0 for _, layer in found]
  scales = {}
  for sign in dict.fromkeys(signed):
    columns = [column for column, here in enumerate(signed) if here == sign]
    shown = [v[found[c][1].grid.num_prefix :] for (c, _), v in relative.items() if c in columns]
    scales[sign] = figures.common_scale(shown or [np.ones(1)])
    drawn_in = axes[:, [1 + 2 * c + side for c in columns for side in (0, 1)]]
    figures.colour_bar(figure, drawn_in, scales[sign], "n x weight (1 = all tokens alike)")
  for row, head in enumerate(heads):
    first = axes[row, 0]
    pixels = found[0][0].images[image]
    token, size = locate(found[0][1].grid, place), _token_size(found[0][1].grid, pixels)
    figures.image(first, pixels)
    figures.box(first, *token, size)
    _title(first, f"query: token row {token[0]}, column {token[1]}")
    for column, (capture, layer) in enumerate(found):
      left, right = axes[row, 1 + 2 * column : 3 + 2 * column]
      if (column, head) not in relative:
        figures.blank(left, "no such head")
        figures.blank(right)
        continue
      values, pixels, scale = relative[column, head], capture.images[image], scales[signed[column]]
      token = locate(layer.grid, place)
      figures.token_map(left, on_grid(layer, values), scale)
      figures.box(left, *token, (1, 1))
      figures.overlay(right, pixels, on_grid(layer, values), scale)
      figures.box(right, *token, _token_size(layer.grid, pixels))
      prefix = values[: layer.grid.num_prefix]
      note = f", class token {prefix.sum():.2f}" if len(prefix) else ""
      _title(left, f"{capture.name}\n{layer.name}, head {head}{note}")
      _title(right, "over the image")
  _heading(figure, heading)
  return figure


def locate(grid, place) -> tuple[int, int]:
  """(row, column) of the token under a place given as fractions of height and width."""
  return min(int(place[0] * grid.rows), grid.rows - 1), min(int(place[1] * grid.columns), grid.columns - 1)


def _index(grid, token) -> int:
  return grid.num_prefix + token[0] * grid.columns + token[1]


def _token_size(grid, pixels) -> tuple[float, float]:
  return pixels.shape[0] / grid.rows, pixels.shape[1] / grid.columns


def pooling_maps(captures: list[Capture], image: int, heading: str):
  """Weights with which a model averages its tokens before the readout, in units of 1 / n."""
  found = [c for c in captures if c.pooling is not None and c.pooling_grid is not None]
  maps = []
  for capture in found:
    grid, values = capture.pooling_grid, capture.pooling[image] * capture.pooling.shape[1]
    maps.append(values[grid.num_prefix :].reshape(grid.rows, grid.columns))
  scale = figures.common_scale(maps)
  figure, axes = figures.new_figure(1, 1 + 2 * len(found))
  figures.image(axes[0, 0], found[0].images[image])
  _title(axes[0, 0], "image")
  for column, (capture, values) in enumerate(zip(found, maps, strict=True)):
    left, right = axes[0, 1 + 2 * column : 3 + 2 * column]
    figures.token_map(left, values, scale)
    figures.overlay(right, capture.images[image], values, scale)
    _title(left, f"{capture.name}\npooling weights")
    _title(right, "over the image")
  figures.colour_bar(figure, axes[:, 1:], scale, "n x weight (1 = all tokens alike)")
  _heading(figure, heading)
  return figure


def entropies(rows: list[dict]):
  """Entropy of every head against the layer, one line of means for each run."""
  figure, axes = figures.new_figure(1, 1, width=6, height=3.2)
  axis = axes[0, 0]
  for number, run in enumerate(dict.fromkeys(row["run"] for row in rows)):
    here = [row for row in rows if row["run"] == run and row["entropy"] is not None]
    if not here:
      continue
    positions = [row["position"] for row in here]
    axis.plot(positions, [row["entropy"] for row in here], "o", ms=3, color=f"C{number}", alpha=0.5)
    used = sorted(set(positions))
    means = [
      np.mean([row["entropy"] for row, p in zip(here, positions, strict=True) if p == q]) for q in used
    ]
    axis.plot(used, means, "-", color=f"C{number}", label=run)
  axis.axhline(1, color="black", ls="--", lw=1, label="all tokens alike")
  axis.set_ylim(0, 1.05)
  axis.xaxis.get_major_locator().set_params(integer=True)
  axis.set_xlabel("layer", fontsize=9)
  axis.set_ylabel("entropy of rows / log n", fontsize=9)
  axis.legend(fontsize=8)
  _heading(figure, "Entropy of attention: dots are heads, lines their means")
  return figure

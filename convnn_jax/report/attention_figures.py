"""Pictures of attention: rows are heads, columns are runs."""

import numpy as np

from convnn_jax.report import figures
from convnn_jax.report.attention_stats import describe_rows
from convnn_jax.report.capture import Capture, Layer


def _title(axis, text: str) -> None:
  axis.set_title(text, fontsize=8)


def _heading(figure, text: str) -> None:
  figure.suptitle(figures.wrap(figure, text, fontsize=10), fontsize=10)


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
        windowed = layer.places is not None and layer.places.windowed
        figures.matrix(axis, values[image, window, head], scale, None if windowed else layer.grid)
        where = f"\nwindow {window}: {layer.places.describe(window)}" if windowed else ""
        _title(axis, f"{capture.name}\n{layer.name}, head {head}: {kind.split()[0]}s{where}")
        axis.set_ylabel("query token", fontsize=8)
        axis.set_xlabel("key token", fontsize=8)
    figures.colour_bar(figure, axes[:, columns], scale, kind)
  _heading(figure, heading)
  return figure


def _has(layer: Layer | None, head: int, window: int) -> bool:
  return layer is not None and window < layer.weights.shape[1] and head < layer.weights.shape[2]


def histograms(captures, layers: list[Layer | None], image: int, heads: list[int], heading: str):
  """Counts of weights over all windows, the diagonal apart; a line at 1 / n; same bins everywhere.

  Pairs of a window that are apart in the image, and padding, are left out.
  """

  def values(layer, head):
    """(weights, on the diagonal), both of the pairs that count."""
    weights = layer.weights[image, :, head]
    own = np.broadcast_to(np.eye(*weights.shape[-2:], dtype=bool), weights.shape)
    visible = getattr(layer.places, "visible", None)
    return (weights.ravel(), own.ravel()) if visible is None else (weights[visible], own[visible])

  drawn = [values(layer, h)[0] for layer in layers for h in heads if _has(layer, h, 0)]
  bins = figures.nice_bins(drawn)
  figure, axes = figures.new_figure(len(heads), len(captures), width=3.8, height=2.4, sharey=True)
  for column, (capture, layer) in enumerate(zip(captures, layers, strict=True)):
    for row, head in enumerate(heads):
      axis = axes[row, column]
      if not _has(layer, head, 0):
        figures.blank(axis, "no such head")
        continue
      weights, own = values(layer, head)
      m = layer.weights.shape[-1]
      axis.hist(weights[~own], bins, label="off the diagonal", color="tab:blue", alpha=0.75)
      axis.hist(weights[own], bins, label="diagonal", color="tab:orange", alpha=0.75)
      axis.axvline(1 / m, color="black", ls="--", lw=1, label=f"1/n = {1 / m:.4g}")
      axis.set_yscale("log")
      axis.set_xlim(bins[0], bins[-1])
      axis.tick_params(
        labelsize=7, labelleft=column == min(c for c, of in enumerate(layers) if _has(of, head, 0))
      )
      axis.set_xlabel("weight", fontsize=8)
      axis.set_ylabel("number of pairs", fontsize=8)
      axis.legend(fontsize=7)
      _title(axis, f"{capture.name}\n{layer.name}, head {head}")
  # The axes share it, and it no longer grows with what is drawn once one of its ends is set.
  axes[0, 0].set_ylim(bottom=0.5)
  _heading(figure, heading)
  return figure


def query_maps(captures, layers: list[Layer | None], image: int, heads: list[int], place, heading: str):
  """What one query token attends to: weights in units of 1 / n on the token grid, and over the image.

  Args:
    place: (row, column) of the query as fractions of the image's height and width.
  """
  found = _placed(captures, layers)
  figure, axes = figures.new_figure(len(heads), 1 + 2 * len(found))
  relative, prefix = {}, {}
  for column, (_, layer) in enumerate(found):
    window, token = layer.places.find(*locate(layer.grid, place))
    visible = layer.places.visible
    n = layer.weights.shape[-2]  # of the columns, those behind are padding
    visible = np.ones(n, bool) if visible is None else visible[window, token]
    for head in (h for h in heads if _has(layer, h, 0)):
      row = layer.weights[image, window, head, token, :n]
      shown = np.where(visible, row, np.nan) * visible.sum()
      relative[column, head] = layer.places.row_to_image(shown, window)
      prefix[column, head] = row[: layer.grid.num_prefix]
  # Runs with negative weights have a scale of their own.
  signed = [layer.weights.min() < 0 for _, layer in found]
  scales = {}
  for sign in dict.fromkeys(signed):
    columns = [column for column, here in enumerate(signed) if here == sign]
    shown = [v for (c, _), v in relative.items() if c in columns]
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
      figures.token_map(left, values, scale)
      figures.box(left, *token, (1, 1))
      figures.overlay(right, pixels, values, scale)
      figures.box(right, *token, _token_size(layer.grid, pixels))
      apart = prefix[column, head]
      note = f"\nweight on the class token {apart.sum():.2f}" if len(apart) else ""
      _title(left, f"{capture.name}\n{layer.name}, head {head}{note}")
      _title(right, "over the image")
  _heading(figure, heading)
  return figure


def locate(grid, place) -> tuple[int, int]:
  """(row, column) of the token under a place given as fractions of height and width."""
  return min(int(place[0] * grid.rows), grid.rows - 1), min(int(place[1] * grid.columns), grid.columns - 1)


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


def token_maps(captures, layers: list[Layer | None], image: int, heads: list[int], heading: str):
  """How near to the identity attention is at each token of the image: diagonal weight and entropy of its row.

  White lines part tokens that do not see each other: windows, and what a shift over the border brings together.
  """
  found = _placed(captures, layers)
  figure, axes = figures.new_figure(len(heads), 1 + 2 * len(found))
  maps = {}
  for column, (_, layer) in enumerate(found):
    for head in (h for h in heads if _has(layer, h, 0)):
      rows = describe_rows(layer.weights[image, :, head], layer.places.visible)
      numbers = (rows.diagonal, rows.relative_entropy)
      maps[column, head] = [layer.places.to_image(x) for x in numbers]
  diagonals = [pair[0] for pair in maps.values()]
  scales = (figures.common_scale([np.ones(1), *diagonals]), figures.common_scale([np.ones(1)]))
  for row, head in enumerate(heads):
    figures.image(axes[row, 0], found[0][0].images[image])
    _title(axes[row, 0], "image")
    for column, (capture, layer) in enumerate(found):
      for side, (what, scale) in enumerate(zip(("diagonal", "entropy / log n"), scales, strict=True)):
        axis = axes[row, 1 + 2 * column + side]
        if (column, head) not in maps or np.isnan(maps[column, head][side]).all():
          figures.blank(axis, _why_blank(found[column][1], (column, head) in maps))
          continue
        figures.token_map(axis, maps[column, head][side], scale)
        figures.borders(axis, layer.places.groups())
        _title(axis, f"{capture.name}\n{layer.name}, head {head}: {what}")
  figures.colour_bar(figure, axes[:, 1:], scales[1], "share of the row on the token itself; entropy / log n")
  _heading(figure, heading)
  return figure


def _why_blank(layer: Layer, has_head: bool) -> str:
  n, m = layer.weights.shape[-2:]
  return "no such head" if not has_head else "padding among the keys" if n != m else "weights of either sign"


def _placed(captures, layers) -> list[tuple[Capture, Layer]]:
  """Runs and layers whose tokens have a known place in the image."""
  return [(c, layer) for c, layer in zip(captures, layers, strict=True) if layer and layer.places]


# key of a row of the table -> title, and its value if all tokens were alike, from 1 / n
OVER_LAYERS = {
  "diagonal": ("diagonal mass", lambda uniform: uniform),
  "entropy": ("entropy of rows / log n", lambda uniform: 1.0),
  "identity": ("distance to the identity", lambda uniform: (1 - uniform) ** 0.5),
}


def over_layers(rows: list[dict]):
  """Diagonal mass, entropy and distance to the identity against the layer; one line of means for each run."""
  figure, axes = figures.new_figure(1, 3, width=4.4, height=3.4)
  runs = list(dict.fromkeys(row["run"] for row in rows))
  for axis, (key, (title, alike)) in zip(axes[0], OVER_LAYERS.items(), strict=True):
    top = 1.0 if key == "entropy" else 0.2
    for number, run in enumerate(runs):
      here = [row for row in rows if row["run"] == run and row[key] is not None]
      if not here:
        continue
      positions = [row["position"] for row in here]
      axis.plot(positions, [row[key] for row in here], "o", ms=3, color=f"C{number}", alpha=0.5)
      line = dict(color=f"C{number}", marker="_", ms=9)  # a mark shows a single layer, too
      axis.plot(*_means(here, key), "-", label=run, **line)
      level = [row | {"alike": alike(row["uniform"])} for row in here if row["uniform"] is not None]
      axis.plot(*_means(level, "alike"), "--", lw=1, alpha=0.8, **line)
      top = max(top, *(row[key] for row in here), *(row["alike"] for row in level))
    axis.set_ylim(0, 1.05 * top)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.set_xlabel("layer", fontsize=9)
    axis.set_ylabel(title, fontsize=9)
    axis.legend(fontsize=8)
  _heading(figure, "Dots are heads, lines their means; dashed: what it would be if all tokens were alike")
  return figure


def _means(rows, key):
  """(positions, mean of `key` over the heads of each)."""
  used = sorted({row["position"] for row in rows})
  return used, [np.mean([row[key] for row in rows if row["position"] == p]) for p in used]

"""What a reader sees of the pictures: whole headings, numbers on the axes."""

import numpy as np

from convnn_jax.attention import TokenGrid
from convnn_jax.report import attention_figures, capture
from convnn_jax.report.token_places import spanning

HEADING = "Attention, test image 0, class 0 (convnn_k9-digits says 0, softmax-digits says 0)"


def one_run(name, heads):
  rng = np.random.default_rng(0)
  weights = rng.uniform(size=(1, 1, heads, 4, 4)).astype(np.float32)
  layer = capture.Layer("block_0", weights, None, None, spanning(TokenGrid(2, 2)))
  common = dict(folder=None, step=1, images=rng.uniform(size=(1, 8, 8, 3)), labels=[0], predictions=[0])
  return capture.Capture(name=name, layers=[layer], pooling=None, pooling_grid=None, **common), layer


def test_a_long_heading_fits_the_smallest_figure():
  run, layer = one_run("one", 1)
  figure = attention_figures.heatmaps([run], [layer], 0, [0], 0, HEADING)
  figure.draw_without_rendering()
  heading = figure.get_suptitle()
  assert heading.split() == HEADING.split()
  box = next(text for text in figure.texts if text.get_text() == heading).get_window_extent()
  assert figure.bbox.x0 <= box.x0
  assert box.x1 <= figure.bbox.x1


def test_counts_are_labelled_where_the_first_run_lacks_the_head():
  runs, layers = zip(one_run("one", 1), one_run("three", 3), one_run("two", 2), strict=True)
  figure = attention_figures.histograms(runs, layers, 0, [0, 1, 2], "title")
  figure.draw_without_rendering()
  axes = np.asarray(figure.axes).reshape(3, 3)  # [head run]
  labelled = [
    [axis.axison and any(label.get_visible() for label in axis.get_yticklabels()) for axis in row]
    for row in axes
  ]
  assert labelled == [[True, False, False], [False, True, False], [False, True, False]]

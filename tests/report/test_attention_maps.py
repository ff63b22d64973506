"""Attention of runs as pictures and numbers."""

import csv

import jax
import numpy as np
import pytest
from fast_jit import use_fast_jit
from PIL import Image

from convnn_jax.attention import ATTENTIONS, TokenGrid
from convnn_jax.errors import UserError
from convnn_jax.ops.windows import window_places
from convnn_jax.report import attention_figures, attention_maps, capture, figures
from convnn_jax.report.token_places import in_windows, spanning
from convnn_jax.training.assemble import assemble


def layers_of(config):
  """What is found of a model, without computing."""
  pieces = assemble(config)
  variables = {"params": pieces.state_shapes.params, **pieces.state_shapes.collections}
  images = jax.ShapeDtypeStruct((3, *pieces.info.image_shape), np.float32)
  apply = lambda v, x: pieces.model.apply(v, x, train=False, mutable=["intermediates"])[1]
  shapes = jax.eval_shape(apply, variables, images)["intermediates"]
  sown = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  flat = capture.traverse_util.flatten_dict(sown)
  return capture.find_layers(flat, 3, pieces.info.image_shape)


@pytest.mark.parametrize("attention", sorted(ATTENTIONS))
def test_every_attention_is_found(small_config, attention):
  layers = layers_of(small_config("--config.model.depth=2", attention=attention))
  assert [layer.name for layer in layers] == ["block_0", "block_1"]
  for layer in layers:
    b, w, _, n, m = layer.weights.shape
    assert (b, w) == (3, 1)
    assert n == m == layer.grid.num_tokens
    assert layer.grid.num_prefix == 1


@pytest.mark.parametrize("attention", ["local", "branching"])
def test_columns_of_padding_are_no_tokens(small_config, attention):
  """They change neither the layout of the tokens nor what is drawn of them."""
  part = "model.attention" + (".first" if attention == "branching" else "")
  words = ["--config.model.depth=2", *([f"--config.{part}.name=local"] if attention == "branching" else [])]
  words += [f"--config.{part}.window_size=5", f"--config.{part}.quirks=('visible_padding',)"]
  layers = layers_of(small_config(*words, attention=attention))
  assert [layer.weights.shape[-2:] for layer in layers] == [(17, 20)] * 2
  assert [layer.grid for layer in layers] == [TokenGrid(4, 4, 1)] * 2

  weights = np.random.default_rng(0).uniform(size=(1, 1, 1, 17, 20)).astype(np.float32)
  layer = capture.Layer("block_0", weights, None, None, layers[0].places)
  common = dict(folder=None, step=1, images=np.zeros((1, 8, 8, 3)), labels=[0], predictions=[0])
  one = capture.Capture(name="one", layers=[layer], pooling=None, pooling_grid=None, **common)
  figure = attention_figures.query_maps([one], [layer], 0, [0], (0.3, 0.3), "title")  # token (1, 1)
  np.testing.assert_allclose(figure.axes[1].images[0].get_array().ravel(), 17 * weights[0, 0, 0, 6, 1:17])
  figure = attention_figures.token_maps([one], [layer], 0, [0], "title")
  assert [axis.texts[0].get_text() for axis in figure.axes if axis.texts] == ["padding among the keys"]


def test_queries_that_are_no_tokens_have_no_layout(small_config):
  """Four learned queries are not a grid of 2 x 2."""
  words = ("--config.model.depth=1", "--config.model.pooling=query", "--config.model.num_queries=4")
  block, pooling = layers_of(small_config(*words, attention="softmax"))
  assert (block.grid, pooling.grid) == (TokenGrid(4, 4), None)


def test_layout_of_sown_values():
  """Numbered names in order of the numbers; windows, scanned layers and inner attentions."""
  zeros = lambda *shape: np.zeros(shape, np.float32)
  sown = {
    ("block_10", "attention", "attention_weights"): (zeros(2, 3, 4, 4),),
    ("block_10", "attention", "first", "attention_weights"): (zeros(2, 1, 4, 4),),
    ("block_2", "attention", "attention_weights"): (zeros(8, 3, 9, 9),),
    ("block_2", "attention", "attention_scores"): (zeros(8, 3, 9, 9),),
    ("scanned", "attention", "attention_weights"): (zeros(5, 2, 3, 4, 4),),
    ("scanned", "attention", "sinkhorn_row_error"): (zeros(5, 2, 3),),
  }
  layers = capture.find_layers(sown, 2, (8, 8, 1))
  assert [layer.name for layer in layers] == ["block_2", "block_10", *(f"scanned/{i}" for i in range(5))]
  assert layers[0].weights.shape == layers[0].scores.shape == (2, 4, 3, 9, 9)
  assert layers[0].places is None  # windows do not span the image, and nothing says where they are
  assert layers[1].grid == TokenGrid(2, 2)
  assert layers[2].row_error.shape == (2, 1, 3)


@pytest.mark.parametrize(
  ("tokens", "shape", "expected"),
  [
    (196, (224, 224, 3), TokenGrid(14, 14, 0)),
    (197, (224, 224, 3), TokenGrid(14, 14, 1)),
    (198, (224, 224, 3), TokenGrid(14, 14, 2)),
    (9, (32, 64, 3), TokenGrid(2, 4, 1)),
    (15, (8, 8, 3), TokenGrid(3, 3, 6)),
    (60, (8, 8, 3), None),
  ],
)
def test_grid_of_tokens(tokens, shape, expected):
  assert capture.infer_grid(tokens, shape) == expected


def test_report_of_two_runs(saved_run, tmp_path, capsys, monkeypatch):
  use_fast_jit(monkeypatch)
  one = saved_run(tmp_path / "one", attention="softmax")
  two = saved_run(tmp_path / "two", "--config.model.attention.num_heads=4", attention="reattention")
  out = tmp_path / "report"
  flags = [f"--workdir={one}", f"--workdir={two}", "--images=3", "--head=0", "--query=1,2"]
  attention_maps.main([*flags, f"--out={out}"])
  stems = ("heatmaps", "histograms", "query-1-2", "tokens")
  names = {"arrays.npz", "statistics.md", "statistics.csv", "layers.png"}
  assert {path.name for path in out.iterdir()} == names | {f"image3-layer0-{stem}.png" for stem in stems}
  for path in out.glob("*.png"):
    with Image.open(path) as picture:
      assert min(picture.size) > 200
      assert np.asarray(picture.convert("L")).std() > 5  # something is drawn

  arrays = np.load(out / "arrays.npz")
  weights, scores = (arrays[f"one.block_0.{kind}"].astype(np.float64) for kind in ("weights", "scores"))
  assert weights.shape == (1, 1, 1, 17, 17)
  np.testing.assert_allclose(weights, np.exp(scores) / np.exp(scores).sum(-1, keepdims=True), atol=1e-6)
  lines = (out / "statistics.csv").read_text().splitlines()
  first, second = csv.DictReader(lines)
  assert (first["run"], first["layer"], first["head"]) == ("one", "block_0", "0")
  assert 0 < float(first["entropy"]) <= 1
  assert second["entropy"] == ""  # re-attention has negative weights
  assert (out / "statistics.md").read_text().splitlines()[2] in capsys.readouterr().out

  captured = capture.capture(one, [3])
  monkeypatch.setattr(attention_maps, "capture", lambda *_: captured)
  numbers = tmp_path / "numbers"
  attention_maps.main([f"--workdir={one}", "--images=3,3", "--pictures=layers", f"--out={numbers}"])
  assert {path.name for path in numbers.iterdir()} == {"layers.png", "statistics.md", "statistics.csv"}
  for bad, message in (
    ([f"--out={out}"], "not empty"),
    (["--layer=1"], "layer 1 does not exist; there are 1"),
    (["--head=9"], "head 9 does not exist"),
    (["--window=1"], "window 1 does not exist"),
    (["--query=4,0"], "tokens are 4 x 4"),
    (["--query=a"], "must be row,column"),
    (["--step=first"], "must be last, best or"),
    (["--images=all"], "too many"),
    (["--images=1-0"], "counts down"),
    (["--images=99999999999999999999"], "there are 360, counted from 0"),
    (["--imagse=1"], "unrecognized arguments"),
  ):
    with pytest.raises(UserError, match=message):
      attention_maps.main([f"--workdir={one}", *bad])


def test_pictures_of_windows_pooling_and_missing_layers():
  """Windowed attention has heatmaps and histograms; runs without a layer, a head or pooling leave their place empty."""
  rng = np.random.default_rng(0)
  weights = rng.uniform(size=(1, 4, 2, 9, 9)).astype(np.float32)
  windowed = capture.Layer("stage_0/block_0", weights, None, None, None)
  whole = capture.Layer("block_0", weights[:, :1, :1], None, None, spanning(TokenGrid(3, 3)))
  common = dict(folder=None, step=1, images=rng.uniform(size=(1, 8, 8, 3)), labels=[0], predictions=[0])
  one = capture.Capture(name="one", layers=[windowed], pooling=None, pooling_grid=None, **common)
  pooling = np.asarray([[0.0, 0.0, 0.25, 0.75]])
  two = capture.Capture(name="two", layers=[whole], pooling=pooling, pooling_grid=TokenGrid(2, 2), **common)

  figure = attention_figures.heatmaps([one, two], [windowed, whole], 0, [0, 1], 3, "title")
  shown = [axis for axis in figure.axes if axis.images]
  np.testing.assert_array_equal(shown[0].images[0].get_array(), weights[0, 3, 0])
  assert len(shown) == 2  # the second run has neither window 3 nor head 1
  assert len([axis for axis in figure.axes if axis.get_xlabel() == "key token"]) == 2
  figure = attention_figures.histograms([one, two], [windowed, None], 0, [0], "title")
  counts = [sum(patch.get_height() for patch in bars) for bars in figure.axes[0].containers]
  assert counts == [4 * 72, 4 * 9]  # off the diagonal, on it, over all windows

  figure = attention_figures.pooling_maps([one, two], 0, "title")
  _, on_grid, over_image, _ = figure.axes
  np.testing.assert_array_equal(on_grid.images[0].get_array(), [[0, 0], [1, 3]])  # in units of 1/n
  assert len(over_image.images) == 2
  figure = attention_figures.query_maps([one, two], [windowed, whole], 0, [0], (0.5, 0.5), "title")
  np.testing.assert_allclose(figure.axes[1].images[0].get_array().ravel(), 9 * weights[0, 0, 0, 4])


def test_the_tallest_bar_of_several_histograms_fits():
  rng = np.random.default_rng(0)
  common = dict(folder=None, step=1, images=rng.uniform(size=(1, 8, 8, 3)), labels=[0], predictions=[0])
  spread, even = rng.dirichlet(np.ones(16), size=(1, 1, 1, 16)), np.full((1, 1, 1, 16, 16), 1 / 16)
  layers = [
    capture.Layer("block_0", weights.astype(np.float32), None, None, spanning(TokenGrid(4, 4)))
    for weights in (spread, even)
  ]
  runs = [
    capture.Capture(name=str(i), layers=[layer], pooling=None, pooling_grid=None, **common)
    for i, layer in enumerate(layers)
  ]
  figure = attention_figures.histograms(runs, layers, 0, [0], "title")
  for axis in figure.axes:
    bottom, top = axis.get_ylim()
    assert bottom == 0.5
    assert top > max(patch.get_height() for bars in axis.containers for patch in bars)


def test_pictures_of_shifted_windows_show_the_place_in_the_image():
  places = in_windows(window_places((4, 6), (4, 6), (2, 3), (1, 1), "roll"))
  rng = np.random.default_rng(0)
  weights = np.where(places.visible, rng.uniform(0.1, 1, (4, 6, 6)), 0.0)
  weights = weights / weights.sum(-1, keepdims=True)
  layer = capture.Layer("stage_0/block_1", weights[None, :, None].astype(np.float32), None, None, places)
  common = dict(folder=None, step=1, images=rng.uniform(size=(1, 8, 12, 3)), labels=[0], predictions=[0])
  one = capture.Capture(name="one", layers=[layer], pooling=None, pooling_grid=None, **common)
  weights = layer.weights[0, :, 0]

  figure = attention_figures.query_maps([one], [layer], 0, [0], (0.1, 0.9), "title")  # token (0, 5)
  shown = figure.axes[1].images[0].get_array()
  # Its window holds rows 3 and 0, columns 4, 5 and 0; it sees those of row 0 on the same side.
  expected = np.ma.masked_all((4, 6))
  window = next(w for w in range(4) if 5 in places.tokens[w])
  query = list(places.tokens[window]).index(5)
  for key, token in enumerate(places.tokens[window]):
    if token in (4, 5):
      expected[divmod(token, 6)] = 2 * weights[window, query, key]
  np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.ma.getmaskarray(expected))
  np.testing.assert_allclose(shown.compressed(), expected.compressed(), rtol=1e-6)

  figure = attention_figures.token_maps([one], [layer], 0, [0], "title")
  diagonal, entropy = (axis.images[0].get_array() for axis in figure.axes[1:3])
  for w, i in np.ndindex(*places.tokens.shape):
    row = weights[w, i][places.visible[w, i]].astype(np.float64)
    assert diagonal[divmod(places.tokens[w, i], 6)] == pytest.approx(weights[w, i, i])
    if len(row) > 1:
      expected = -(row * np.log(row)).sum() / np.log(len(row))
      assert entropy[divmod(places.tokens[w, i], 6)] == pytest.approx(expected, rel=1e-5)
  figure = attention_figures.histograms([one], [layer], 0, [0], "title")
  counts = [sum(patch.get_height() for patch in bars) for bars in figure.axes[0].containers]
  assert counts == [places.visible.sum() - 24, 24]  # hidden pairs are left out
  figure = attention_figures.heatmaps([one], [layer], 0, [0], 3, "title")
  assert "window 3: rows 3, 0, columns 4-5, 0" in figure.axes[0].get_title()


def test_heads_that_a_layer_does_not_have(tmp_path, monkeypatch, capsys):
  """Stages with heads 2 and 4; nothing is saved here, which takes most of the time."""
  rng = np.random.default_rng(0)
  places = spanning(TokenGrid(2, 2))
  layers = [
    capture.Layer(f"stage_{i}", rng.uniform(size=(1, 1, heads, 4, 4)).astype(np.float32), None, None, places)
    for i, heads in enumerate((2, 4))
  ]
  common = dict(folder=None, step=1, images=rng.uniform(size=(2, 8, 8, 3)), labels=[0, 1], predictions=[0, 1])
  one = capture.Capture(name="one", layers=layers, pooling=None, pooling_grid=None, **common)
  monkeypatch.setattr(attention_maps, "capture", lambda *_: one)
  monkeypatch.setattr(attention_maps, "number_of_images", lambda _: 1)
  monkeypatch.setattr(figures, "save", lambda figure, path: path)
  attention_maps.main(["--workdir=one", "--head=2,3", f"--out={tmp_path}"])
  said = capsys.readouterr().out
  assert said.count("layer 0 has no head 2, 3: no pictures of it") == 1
  drawn = {line.split("/")[-1] for line in said.splitlines() if line.endswith(".png")}
  kinds = ("heatmaps", "histograms", "tokens", "query-1-1")
  assert drawn == {"layers.png"} | {f"image0-layer1-{kind}.png" for kind in kinds}
  with pytest.raises(UserError, match="--head=3: head 3 does not exist; there are 2"):
    attention_maps.main(["--workdir=one", "--head=3", "--layer=0", f"--out={tmp_path / 'other'}"])
  assert not (tmp_path / "other").exists()


def test_numbers_over_the_layers_of_two_runs():
  rows = []
  for run, shift in (("one", 0.0), ("two", 0.5)):
    for position in range(3):
      for head in range(2):
        numbers = dict(diagonal=shift + 0.1 * head, uniform=0.25, entropy=0.5, identity=position)
        rows.append(dict(run=run, position=position, head=head, **numbers))
  rows.append(dict(run="two", position=3, head=0, diagonal=None, uniform=0.25, entropy=None, identity=1.5))
  figure = attention_figures.over_layers(rows)
  assert len(figure.axes) == 3
  lines = {
    (number, line.get_label()): np.asarray(line.get_data())
    for number, axis in enumerate(figure.axes)
    for line in axis.lines
    if not line.get_label().startswith("_")
  }
  assert lines.keys() == {(number, run) for number in range(3) for run in ("one", "two")}
  np.testing.assert_allclose(lines[0, "two"], [[0, 1, 2], [0.55] * 3])  # layer 3 has no diagonal mass
  np.testing.assert_allclose(lines[2, "two"], [[0, 1, 2, 3], [0, 1, 2, 1.5]])


def test_no_run(tmp_path):
  with pytest.raises(UserError, match="holds no run"):
    attention_maps.main([f"--workdir={tmp_path}"])


def test_a_config_that_is_no_whole_one_is_named(tmp_path):
  for text in ("{}", '{"data": {"name": "digits"}, "model": {"name": "vit"}, "num_epochs": 1}'):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json"):
      attention_maps.main([f"--workdir={tmp_path}"])

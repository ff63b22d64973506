"""Pictures and numbers of what a trained attention does, several runs side by side.

    python -m convnn_jax.report.attention_maps --workdir=runs/vit_softmax-digits --images=0,1
    python -m convnn_jax.report.attention_maps --workdir=A --workdir=B --layer=0,3 --head=0 --query=2,1 --out=DIR
    python -m convnn_jax.report.attention_maps --workdir=A --workdir=B --images=0-63 --pictures=layers

Evaluation mode: no dropout, fixed random candidates. Writes PNG files, the raw arrays (arrays.npz) and the table of
numbers (statistics.md, statistics.csv) into a folder of its own. All panels of a kind share one linear colour scale.
Maps over windows are drawn where their tokens stand in the image, shifted windows too.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from convnn_jax import cli
from convnn_jax.errors import UserError
from convnn_jax.report import rows as tables
from convnn_jax.report.attention_stats import COLUMNS, statistics
from convnn_jax.report.capture import Capture, capture, number_of_images
from convnn_jax.training.metrics import say


def main(argv: Sequence[str]) -> None:
  """Parses flags, looks at every run, writes the report."""
  args = _parse(argv)
  step = int(args.step) if args.step.isdigit() else args.step
  fewest = min(number_of_images(workdir) for workdir in args.workdir)
  images = tables.numbers("--images", args.images, fewest, "image")
  captures = _with_distinct_names([capture(workdir, images, step) for workdir in args.workdir], args.workdir)
  depth = max(len(c.layers) for c in captures)
  layers = tables.numbers("--layer", args.layer, depth, "layer")
  drawn = [c.layers[number] for c in captures for number in layers if number < len(c.layers)]
  heads = tables.numbers("--head", args.head, max(layer.weights.shape[2] for layer in drawn), "head")
  most_windows = max(layer.weights.shape[1] for layer in drawn)
  (window,) = tables.numbers("--window", str(args.window), most_windows, "window")
  places = _places(args.query, captures)

  folder = tables.fresh_folder(args.out, "reports/attention_maps")
  say(f"writing {folder}")
  if args.pictures == "images":
    _save_arrays(folder, captures, images, layers)
  rows = _statistics(captures, layers, heads)
  about = f"Means over test images {', '.join(map(str, images))}; evaluation mode. " + "; ".join(
    f"{c.name}: step {c.step} of {c.folder}" for c in captures
  )
  say(tables.write_table(folder, "statistics", COLUMNS, rows, about))
  for path in _draw(folder, captures, images, layers, heads, window, places, rows, args.pictures):
    say(str(path))


def _parse(argv):
  parser = cli.Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", action="append", required=True, help="folder of a run; may be repeated")
  parser.add_argument("--images", default="0", help="numbers of test images, such as 0,1 or 0-63")
  parser.add_argument("--layer", default="all", help="all, or positions such as 0,3")
  parser.add_argument("--head", default="all", help="all, or positions such as 0,2")
  parser.add_argument(
    "--query", default="auto", help="row,column of a token; several with ';'; auto = the middle"
  )
  parser.add_argument(
    "--window", type=int, default=0, help="of windowed attention: the window whose map is drawn"
  )
  parser.add_argument(
    "--pictures",
    choices=("images", "layers"),
    default="images",
    help="images = all; layers = only the numbers and their course over the layers, for many images",
  )
  parser.add_argument("--step", default="last", help="last, best, or a step number")
  parser.add_argument("--out", default="", help="new folder; default reports/attention_maps, or -2, -3, ...")
  args = parser.parse_args(argv)
  if args.images == "all":
    raise UserError(
      "--images=all would be too many; name some, such as --images=0,1, or 0-63 with --pictures=layers."
    )
  if args.step not in ("last", "best") and not (args.step.isascii() and args.step.isdigit()):
    raise UserError(f"--step={args.step} must be last, best or a step number.")
  return args


def _with_distinct_names(captures: list[Capture], workdirs) -> list[Capture]:
  """Folders of equal names are told apart by the path that was given."""
  names = [c.name for c in captures]
  repeated = {name for name in names if names.count(name) > 1}
  return [
    dataclasses.replace(c, name=f"{number}: {workdir}") if c.name in repeated else c
    for number, (c, workdir) in enumerate(zip(captures, workdirs, strict=True))
  ]


def _places(query: str, captures: list[Capture]) -> list[tuple[float, float]]:
  """Queries as fractions of height and width; rows and columns count on the first grid of the first run."""
  grid = next((layer.grid for c in captures for layer in c.layers if layer.grid), None)
  if grid is None:
    if query != "auto":
      raise UserError(f"--query={query}: no attention here spans the tokens of an image; leave --query out.")
    return []
  if query == "auto":
    tokens = [(grid.rows // 2, grid.columns // 2)]
  else:
    words = [[w.strip() for w in pair.split(",")] for pair in query.split(";")]
    if not all(len(pair) == 2 and all(w.isascii() and w.isdigit() for w in pair) for pair in words):
      raise UserError(f"--query={query} must be row,column of a token, such as 2,1, or auto.")
    tokens = [(int(row), int(column)) for row, column in words]
  for row, column in tokens:
    if row >= grid.rows or column >= grid.columns:
      raise UserError(f"--query={query}: the tokens are {grid.rows} x {grid.columns}, counted from 0.")
  return [((row + 0.5) / grid.rows, (column + 0.5) / grid.columns) for row, column in tokens]


def _save_arrays(folder: pathlib.Path, captures, images, layers) -> None:
  """All that the pictures show, by names such as run/layer/weights; read it with numpy.load."""
  arrays = {"images": np.asarray(images)}
  for c in captures:
    arrays |= {
      f"{c.name}/images": c.images,
      f"{c.name}/labels": c.labels,
      f"{c.name}/predictions": c.predictions,
    }
    if c.pooling is not None:
      arrays[f"{c.name}/pooling"] = c.pooling
    for layer in (c.layers[number] for number in layers if number < len(c.layers)):
      for field in ("weights", "scores", "row_error"):
        if getattr(layer, field) is not None:
          arrays[f"{c.name}/{layer.name}/{field}"] = getattr(layer, field)
      if layer.grid:
        shape = (layer.grid.rows, layer.grid.columns, layer.grid.num_prefix)
        arrays[f"{c.name}/{layer.name}/grid"] = np.asarray(shape)
        arrays[f"{c.name}/{layer.name}/tokens"] = layer.places.tokens
  np.savez_compressed(
    folder / "arrays.npz", **{name.replace("/", "."): array for name, array in arrays.items()}
  )


def _statistics(captures, layers, heads) -> list[dict]:
  rows = []
  for c in captures:
    for number in (number for number in layers if number < len(c.layers)):
      layer = c.layers[number]
      for head in (h for h in heads if h < layer.weights.shape[2]):
        error = None if layer.row_error is None else layer.row_error[:, :, head]
        figures = statistics(layer.weights[:, :, head], layer.places, error)
        rows.append({"run": c.name, "layer": layer.name, "position": number, "head": head, **figures})
  return rows


def _draw(folder, captures, images, layers, heads, window, places, rows, pictures):
  """Draws and saves figure by figure; yields the paths."""
  from convnn_jax.report import attention_figures as draw
  from convnn_jax.report.figures import save

  yield save(draw.over_layers(rows), folder / "layers.png")
  has = lambda layer, head: layer is not None and head < layer.weights.shape[2]
  for i, index in enumerate(images) if pictures == "images" else ():
    seen = ", ".join(f"{c.name} says {c.predictions[i]}" for c in captures)
    about = f"test image {index}, class {captures[0].labels[i]} ({seen})"
    for number in layers:
      here = [c.layers[number] if number < len(c.layers) else None for c in captures]
      used = [h for h in heads if any(has(layer, h) for layer in here)]
      if not used:
        if i == 0:
          say(f"layer {number} has no head {', '.join(map(str, heads))}: no pictures of it")
        continue
      stem = f"image{index}-layer{number}"
      figure = draw.heatmaps(captures, here, i, used, window, f"Attention, {about}")
      yield save(figure, folder / f"{stem}-heatmaps.png")
      figure = draw.histograms(captures, here, i, used, f"Weights, {about}")
      yield save(figure, folder / f"{stem}-histograms.png")
      if any(layer and layer.places for layer in here):
        figure = draw.token_maps(captures, here, i, used, f"Attention token by token, {about}")
        yield save(figure, folder / f"{stem}-tokens.png")
      for place in places if any(layer and layer.grid for layer in here) else ():
        grid = next(layer.grid for layer in here if layer and layer.grid)
        row, column = draw.locate(grid, place)
        figure = draw.query_maps(captures, here, i, used, place, f"What one token attends to, {about}")
        yield save(figure, folder / f"{stem}-query-{row}-{column}.png")
    if any(c.pooling_grid for c in captures):
      yield save(draw.pooling_maps(captures, i, f"Pooling, {about}"), folder / f"image{index}-pooling.png")


if __name__ == "__main__":
  sys.exit(cli.run(main, sys.argv[1:]))

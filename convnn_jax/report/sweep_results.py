"""Tables and the plot of a sweep: means and deviations over seeds."""

import json
import pathlib
import statistics
from collections.abc import Sequence

from convnn_jax.errors import UserError
from convnn_jax.report import figures
from convnn_jax.report.points import Point, describe, label
from convnn_jax.report.rows import Column, csv_text, digits, percent, write_table
from convnn_jax.report.table import distinct
from convnn_jax.report.table import group as group_runs
from convnn_jax.training import config as config_lib
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.metrics import say

# Fields of result.json that are averaged, and their titles.
_AVERAGED = {"test_top1": "last top-1 %", "best_test_top1": "best top-1 %", "test_loss": "test loss"}
_NUMBERS = (*_AVERAGED, "num_params", "train_seconds")


def write(points: list[Point], root: pathlib.Path, baseline: dict | None = None) -> list[str]:
  """Writes results.md, results.csv (a row per setting), points.csv (a row per run) and sweep.png; prints the table.

  Args:
    points: of the sweep; nothing is written as long as none of them is finished.
    root: folder of the sweep.
    baseline: a row of other runs, see `external_baseline`.

  Returns:
    What is wrong with results that could not be read, and are left out.
  """
  finished, damaged = [], []
  for point in points:
    try:
      result = workdir_lib.read_result(root / point.part / point.name, _NUMBERS)
      finished += [] if result is None else [(point, result)]
    except UserError as error:
      damaged.append(str(error))
  if not finished:
    if not damaged:
      say("no point is finished yet, so there is no table")
    return damaged
  fields = list(dict.fromkeys(field for point in points for field in point.setting))
  external = [baseline] if baseline else []
  columns = columns_for(fields)
  heading = (
    f"{len(finished)} of {len(points)} points finished. Last and best epoch; sd is the sample standard"
  )
  heading += " deviation over seeds."
  say("\n" + write_table(root, "results", columns, group(finished, fields) + external, heading))
  (root / "points.csv").write_text(_every_run(finished))
  if figure := plot(group(finished) + external, fields):
    say(f"\n{figures.save(figure, root / 'sweep.png')}")
  say(f"{root / 'results.md'}")
  return damaged


def columns_for(fields: Sequence[str]) -> list[Column]:
  """A column for each swept field, then what was measured."""
  names = [label(f) for f in fields]
  titles = [name if names.count(name) == 1 else field for name, field in zip(names, fields, strict=True)]
  columns = [Column("part", "")]
  columns += [Column(field, title, describe) for field, title in zip(fields, titles, strict=True)]
  columns.append(Column("seeds", "seeds"))
  for name, title in _AVERAGED.items():
    text = digits(4) if name == "test_loss" else percent
    columns += [Column(name, title, text), Column(f"{name}_sd", "sd", text)]
  columns += [Column("train_seconds", "training s", digits(1)), Column("num_params", "parameters", digits(0))]
  return columns


def group(finished: list[tuple[Point, dict]], fields: Sequence[str] = ()) -> list[dict]:
  """A row per setting: mean and sample standard deviation over seeds (None for a single one).

  Args:
    finished: points and what they measured.
    fields: that a row has even where its points leave them to their config, with its values.
  """
  groups: dict[str, list] = {}
  for point, result in finished:
    key = json.dumps([point.part, point.setting], sort_keys=True, default=repr)
    groups.setdefault(key, []).append((point, result))
  rows = []
  for runs in groups.values():
    point = runs[0][0]
    own = config_lib.flatten(point.config.to_dict()) if fields else {}
    rows.append(
      {
        **{field: own[field] for field in fields if field in own},
        "part": "baseline" if point.part == "baseline" else "",
        **point.setting,
        **summary([r for _, r in runs]),
      }
    )
  return rows


def summary(results: list[dict]) -> dict:
  """Mean and deviation of several results of one setting."""
  row = {"seeds": len(results), "num_params": results[0]["num_params"]}
  for name in _AVERAGED:
    values = [result[name] for result in results]
    row[name] = statistics.fmean(values)
    row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
  row["train_seconds"] = statistics.fmean(result["train_seconds"] for result in results)
  return row


def external_baseline(folders: Sequence[str]) -> dict | None:
  """The row of the finished runs in `folders`; None without any.

  Raises:
    UserError: one of them is no finished run, or they differ in more than the seed.
  """
  runs = []
  for folder in folders:
    path, config = workdir_lib.load_config(folder, "--baseline")
    result = workdir_lib.read_result(path, _NUMBERS)
    if result is None:
      raise UserError(f"--baseline={folder} is not finished; train it first.")
    runs.append((path, config_lib.flatten(config.to_dict()), result))
  settings = group_runs(distinct(runs))
  if len(settings) > 1:
    (one, fields, _), (other, others, _) = (runs[0] for runs in settings[:2])
    names = [name for name in sorted(fields.keys() | others.keys()) if fields.get(name) != others.get(name)]
    raise UserError(
      f"--baseline={one} and --baseline={other} differ in {', '.join(name for name in names if name != 'seed')}; a"
      " baseline is one setting, with as many seeds as you like."
    )
  return {"part": "baseline", **summary([result for *_, result in settings[0]])} if settings else None


def _every_run(finished) -> str:
  fields = list(dict.fromkeys(field for point, _ in finished for field in point.overrides))
  wanted = [
    "test_top1",
    "best_test_top1",
    "best_epoch",
    "test_loss",
    "test_top5",
    "train_seconds",
    "num_params",
  ]
  wanted += ["params_digest", "device", "commit"]
  columns = [Column(name, name) for name in ("part", "name", *fields, *wanted)]
  rows = [{"part": p.part, "name": p.name, **p.overrides, **result} for p, result in finished]
  return csv_text(columns, rows)


def plot(rows: list[dict], fields: Sequence[str]):
  """Accuracy against the numeric field with most values, a line for each combination of the others.

  Returns:
    None if no numeric field has two values.
  """
  points = [row for row in rows if row["part"] != "baseline"]
  numeric = lambda field: {row[field] for row in points if _is_number(row.get(field))}
  candidates = [field for field in fields if len(numeric(field)) > 1]
  if not candidates:
    return None
  swept = max(candidates, key=lambda field: len(numeric(field)))
  others = [field for field in fields if field != swept and len({repr(row.get(field)) for row in points}) > 1]
  lines: dict[str, list[dict]] = {}
  for row in points:
    if _is_number(row.get(swept)):
      name = ", ".join(f"{label(field)} {describe(row.get(field, '-'))}" for field in others)
      lines.setdefault(name, []).append(row)

  measures = ("test_top1", "best_test_top1")
  figure, axes = figures.new_figure(1, 2, width=5.2, height=3.8, sharey=True)
  for axis, measure in zip(axes[0], measures, strict=True):
    for number, (name, line) in enumerate(lines.items()):
      line = sorted(line, key=lambda row: row[swept])
      middle = [100 * row[measure] for row in line]
      spread = [100 * (row[f"{measure}_sd"] or 0) for row in line]
      seeds = f"{line[0]['seeds']} seed{'s' if line[0]['seeds'] > 1 else ''}, mean ± sd"
      shown = f"{name} ({seeds})" if name else seeds
      x = [row[swept] for row in line]
      axis.errorbar(x, middle, spread, fmt="o-", ms=4, capsize=3, color=f"C{number}", label=shown)
    for number, row in enumerate(row for row in rows if row["part"] == "baseline"):
      _band(axis, row, measure, f"C{len(lines) + number}")
    values = sorted({row[swept] for line in lines.values() for row in line})
    if values[0] > 0 and values[-1] / values[0] >= 50:
      axis.set_xscale("log")
    axis.set_xlabel(swept, fontsize=9)
    axis.set_ylabel("test top-1 %", fontsize=9)
    axis.set_title(
      "last epoch" if measure == "test_top1" else "best epoch (chosen on the test set)", fontsize=9
    )
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8, labelleft=True)
    axis.legend(fontsize=7)
  figure.suptitle(f"Accuracy against {label(swept)}", fontsize=10)
  return figure


def _band(axis, row: dict, measure: str, colour: str) -> None:
  middle, spread = 100 * row[measure], 100 * (row[f"{measure}_sd"] or 0)
  axis.axhline(middle, color=colour, lw=1)
  seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
  axis.axhspan(middle - spread, middle + spread, color=colour, alpha=0.2, label=f"baseline ({seeds})")


def _is_number(value) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)

"""Any set of finished runs as one table: mean and deviation over seeds, cost, and what was published.

    python -m convnn_jax.report.table --workdir=runs/vit_softmax --workdir=runs/convnn_k9
    python -m convnn_jax.report.table --workdir=runs --published=convnn --out=reports/table

A --workdir that is no run stands for all finished runs below it. Runs whose configs differ in the seed only are one
row; other fields in which rows differ stand below. FLOPs are those of the matrix products and convolutions of a forward
pass as they are computed, masked pairs too. --published=NAME adds docs/published/NAME.csv with our figures beside each
row; NAME may also be a path.
"""

import csv
import pathlib
import re
import statistics
import sys
from collections.abc import Mapping, Sequence

from convnn_jax import cli
from convnn_jax.errors import UserError, unknown_name
from convnn_jax.report.rows import Column, digits, fresh_folder, markdown, percent, write_table
from convnn_jax.training import config as config_lib
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.metrics import say

PUBLISHED = pathlib.Path(__file__).parents[2] / "docs" / "published"

_NUMBERS = ("test_top1", "best_test_top1", "num_params", "flops_per_image", "num_devices")

COLUMNS = (
  Column("run", "run"),
  Column("dataset", "data"),
  Column("model", "model"),
  Column("attention", "attention"),
  Column("epochs", "epochs"),
  Column("seeds", "seeds"),
  Column("test_top1", "last top-1 %", percent),
  Column("test_top1_sd", "sd", percent),
  Column("best_test_top1", "best top-1 %", percent),
  Column("best_test_top1_sd", "sd", percent),
  Column("published", "published %"),
  Column("num_params", "parameters", digits(0)),
  Column("flops_per_image", "MFLOP per image", digits(2, 1e-6)),
  Column("step_ms_median", "ms per step", digits(2)),
  Column("device", "device"),
  Column("commit", "commit"),
)
_SHOWN = ("seed", "data.data_dir", "data.name", "model.name", "model.attention.name", "num_epochs")
_OTHER_FIELDS = "Other fields of the config in which the rows differ:"

PUBLISHED_COLUMNS = (
  Column("study", "study"),
  Column("model", "model"),
  Column("dataset", "data"),
  Column("setting", "setting"),
  Column("best_top1", "best top-1 %"),
  Column("last_top1", "last top-1 %"),
  Column("ours_best", "ours, best"),
  Column("ours_last", "ours, last"),
  Column("params", "parameters"),
  Column("gflops", "GFLOP"),
  Column("inference_ms", "inference ms"),
  Column("source", "source"),
)


def main(argv: Sequence[str]) -> None:
  """Parses flags, reads the runs, prints and writes the tables."""
  parser = cli.Parser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--workdir", action="append", required=True, help="a run, or a folder with runs below it"
  )
  parser.add_argument("--published", action="append", default=[], help="a table of docs/published, or a path")
  parser.add_argument(
    "--matching", action="store_true", help="of the published rows only those that we have run"
  )
  parser.add_argument(
    "--out", default="", help="new folder for table.md, table.csv and more; default: print only"
  )
  args = parser.parse_args(argv)
  damaged: list[str] = []
  groups = group(find_runs(args.workdir, damaged))
  published = {name: read_published(name) for name in args.published}
  rows = [row(runs, [p for table in published.values() for p in table]) for runs in groups]
  beside = {name: [_with_ours(p, groups) for p in table] for name, table in published.items()}
  if args.matching:
    beside = {name: [p for p in table if p["ours_best"]] for name, table in beside.items()}
  strangers = [
    name for name, table in published.items() if table and not any(p["ours_best"] for p in beside[name])
  ]
  folder = fresh_folder(args.out, args.out) if args.out else None
  say(markdown(COLUMNS, rows))
  fields, differences = other_fields(groups, rows)
  if differences:
    say(f"\n{_OTHER_FIELDS}\n\n{markdown(fields, differences)}")
  for name, table in beside.items():
    say(f"\n{name}, as published\n\n{markdown(PUBLISHED_COLUMNS, table)}")
  if folder:
    write_table(folder, "table", COLUMNS, rows, "Mean and sample standard deviation (sd) over seeds.")
    if differences:
      write_table(folder, "differences", fields, differences, _OTHER_FIELDS)
    for name, table in beside.items():
      write_table(folder, f"published-{pathlib.Path(name).stem}", PUBLISHED_COLUMNS, table)
    say(f"\nwritten to {folder}")
  for name in strangers:
    say(f"\n{name}: no run matches a row; its column `match` says which fields a run must have")
  if damaged:
    raise UserError(f"left out: {'; '.join(damaged)}")


def find_runs(
  workdirs: Sequence[str], damaged: list[str] | None = None
) -> list[tuple[pathlib.Path, Mapping, dict]]:
  """(folder, flat config, result) of every finished run, in natural order below a folder.

  Args:
    workdirs: runs, or folders with runs below them.
    damaged: is given a line for every run whose files cannot be read; None = such a run is an error.

  Raises:
    UserError: a folder holds no finished run, or none that can be read.
  """
  found = {}
  for workdir in workdirs:
    top = pathlib.Path(workdir).expanduser()
    if (top / "config.json").exists():
      candidates = [top]
    else:
      candidates = sorted((path.parent for path in top.rglob("config.json")), key=_natural)
    finished = [path for path in candidates if (path / "result.json").exists()]
    if not finished:
      what = "a run that is not finished" if candidates else "no run"
      near = "" if candidates else workdir_lib.runs_beside(top.resolve())
      raise UserError(
        f"--workdir={workdir} holds {what}; train first, or give the folder of a finished run.{near}"
      )
    for path in finished:
      try:
        _, config = workdir_lib.load_config(str(path))
        result = workdir_lib.read_result(path, _NUMBERS, ("device", "commit"))
      except UserError as error:
        if damaged is None:
          raise
        damaged.append(str(error))
        continue
      found[path.resolve()] = (path, config_lib.flatten(config.to_dict()), result)
  if not found and damaged:
    raise UserError("; ".join(damaged))
  return distinct(list(found.values()))


def distinct(runs: Sequence[tuple[pathlib.Path, Mapping, dict]]) -> list[tuple[pathlib.Path, Mapping, dict]]:
  """Runs without copies: those of one config, seed included, that ended with the same parameters, bit for bit."""
  kept: dict[str, tuple] = {}
  for path, config, result in runs:
    digest = result.get("params_digest") or str(path.resolve())
    first = kept.setdefault(repr([_setting(config), config["seed"], digest]), (path, config, result))[0]
    if first != path:
      say(f"{path} is the same run as {first}; it counts once")
  return list(kept.values())


def _setting(config: Mapping) -> list:
  """What makes runs comparable: all fields but the seed and the place of the data."""
  return sorted(
    (field, repr(value)) for field, value in config.items() if field not in ("seed", "data.data_dir")
  )


def _natural(path: pathlib.Path) -> list:
  return [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in re.split(r"(\d+)", str(path))]


def group(runs) -> list[list]:
  """Lists of runs whose configs differ in the seed and the place of the data only."""
  groups: dict[str, list] = {}
  for run in runs:
    groups.setdefault(repr(_setting(run[1])), []).append(run)
  return list(groups.values())


def row(runs, published: Sequence[dict] = ()) -> dict:
  """One row: means over the runs of a group; what was published for its config, if anything."""
  path, config, first = runs[0]
  results = [result for _, _, result in runs]
  values = {
    "run": _common_name(path) if len(runs) > 1 else path.name,
    "dataset": config["data.name"],
    "model": config["model.name"],
    "attention": config.get("model.attention.name"),
    "epochs": config["num_epochs"],
    "seeds": len(runs),
    "num_params": first["num_params"],
    "flops_per_image": first["flops_per_image"],
    "device": _joined(f"{r['num_devices']} x {r['device']}" for r in results),
    "commit": _joined(r["commit"] for r in results),
  }
  for name in ("test_top1", "best_test_top1"):
    column = [result[name] for result in results]
    values[name] = statistics.fmean(column)
    values[f"{name}_sd"] = statistics.stdev(column) if len(column) > 1 else None
  steps = [result["step_ms_median"] for result in results if result.get("step_ms_median") is not None]
  values["step_ms_median"] = statistics.median(steps) if steps else None
  matching = [p["best_top1"] for p in published if matches(p["match"], config, first)]
  values["published"] = "; ".join(dict.fromkeys(matching)) or None
  return values


def other_fields(groups, rows: Sequence[Mapping]) -> tuple[list[Column], list[dict]]:
  """Columns, a field and one per group, and a line for each field that groups have with different values.

  So that nobody takes rows for like with like: a field that only one of two attentions has is no difference.
  """
  names = [row["run"] for row in rows]
  alone = lambda name: names.count(name) == 1 and name != "field"
  names = [name if alone(name) else f"{name} ({number})" for number, name in enumerate(names, 1)]
  configs = {name: runs[0][1] for name, runs in zip(names, groups, strict=True)}
  lines = []
  for field in dict.fromkeys(field for config in configs.values() for field in config):
    values = {name: str(config[field]) for name, config in configs.items() if config.get(field) is not None}
    given = {repr(config[field]) for config in configs.values() if field in config}
    if field not in _SHOWN and len(given) > 1:
      lines.append({"field": field, **values})
  return [Column(name, name) for name in ("field", *names)], lines


def _common_name(path: pathlib.Path) -> str:
  """A name for all seeds of a setting; points of a sweep over seeds only have that of the sweep."""
  name = re.sub(r"-?seed=?\d+", "", path.name)
  return name or (path.parents[1].name if path.parent.name == "points" else path.name)


def _joined(words) -> str | None:
  return ", ".join(dict.fromkeys(word for word in words if word)) or None


def read_published(name: str) -> list[dict]:
  """Rows of docs/published/NAME.csv, or of the file NAME, as text."""
  path = pathlib.Path(name) if name.endswith(".csv") else PUBLISHED / f"{name}.csv"
  if not path.is_file():
    raise unknown_name("published table", name, [p.stem for p in PUBLISHED.glob("*.csv")])
  with path.open(newline="") as file:
    rows = list(csv.DictReader(file))
  for key in ("match", "best_top1"):
    if rows and key not in rows[0]:
      raise UserError(f"{path} has no column '{key}'; see {PUBLISHED / 'convnn.csv'} for an example.")
  return [{key: value or None for key, value in row.items()} for row in rows]


def matches(conditions: str | None, config: Mapping, result: Mapping) -> bool:
  """Whether "field=value;field=value" holds; a field of the config, or num_params. False if there is none."""
  if not conditions:
    return False
  known = {**config, "num_params": result["num_params"]}
  pairs = (condition.split("=", 1) for condition in conditions.split(";"))
  return all(field in known and _same(known[field], value) for field, value in pairs)


def _same(value, text: str) -> bool:
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    try:
      return float(value) == float(text)
    except ValueError:
      return False
  return str(value) == text


def _with_ours(published: dict, groups) -> dict:
  """The published row, and our mean ± sd where we have run it."""
  ours = [row(runs) for runs in groups if matches(published["match"], runs[0][1], runs[0][2])]

  def shown(name):
    texts = []
    for one in ours:
      spread = one[f"{name}_sd"]
      texts.append(
        percent(one[name]) + (f" ± {percent(spread)} ({one['seeds']})" if spread is not None else "")
      )
    return "; ".join(texts) or None

  return {**published, "ours_best": shown("best_test_top1"), "ours_last": shown("test_top1")}


if __name__ == "__main__":
  sys.exit(cli.run(main, sys.argv[1:]))

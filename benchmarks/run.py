"""All measurements of a suite, each figure beside its target.

    python -m benchmarks.run --suite=cpu --out=bench.json                    # 13 to 20 minutes on 2 cores
    python -m benchmarks.run --suite=cpu --only=C5,C6,C7 --out=bench.json    # some figures
    python -m benchmarks.run --suite=cpu --only=headline --out=bench.json    # those of the README, ratios as JSON
    python -m benchmarks.run --suite=quick                                   # does it run? one minute

Prints machine, versions, threads, load and commit, then a Markdown table; `--out` holds the same and every sample.
Each group runs in a process of its own, and each of its rounds runs a step of every contender; the figure is a ratio
of minima, ours over the other. A group with a contender whose median is more than 1.5 times its minimum is noisy, and
measured once more. Contenders in PyTorch need requirements-peers.txt and are left out, with a line, where there is
none. Leave the checkout as it is meanwhile: each group reads it anew.

Exit codes: 4, a group failed, and its figures are missing; 3, a group was noisy again, so the machine is too busy and
nothing should be quoted; 2, a mistake in the arguments; 1, a target was missed (with --strict).
"""

import argparse
import gc
import importlib.util
import itertools
import json
import os
import pathlib
import sys

from benchmarks import compiling, devices, layers, measure, ops, steps
from benchmarks.cases import Group, Ratio
from benchmarks.processes import in_new_process
from convnn_jax.cli import keep_memory_on_cpu
from convnn_jax.errors import RunFailed, UserError, unknown_name

GROUPS = (*ops.GROUPS, *layers.GROUPS, *steps.GROUPS, *compiling.GROUPS, *devices.GROUPS)
SUITES = ("cpu", "gpu", "tpu", "quick")
# Rounds at least, and the seconds that a group's samples last at least (measure.interleave).
ROUNDS, ENOUGH = 7, 30.0
QUICK_ROUNDS = 3
NOISY_EXIT, FAILED_EXIT = 3, 4


def wanted_cases(suite: str, only: str) -> list[tuple[Group, list]]:
  """Groups with those of their cases that are asked for.

  Raises:
    UserError: a word of `only` that is neither a figure nor a group.
  """
  words = [word.strip() for word in only.split(",")] if only else []
  known = {"headline"} | {g.name for g in GROUPS} | {case.id for g in GROUPS for case in g.cases}
  for word in words:
    if word not in known:
      raise unknown_name("figure or group in --only:", word, known)

  def asked(group, case):
    if not words:
      return suite in group.suites
    return group.name in words or case.id in words or ("headline" in words and bool(case.headline))

  chosen = [(group, [case for case in group.cases if asked(group, case)]) for group in GROUPS]
  return [(group, cases) for group, cases in chosen if cases]


def quiet_rows(group: Group, cases, rounds: int, enough: float = 0.0) -> list[dict]:
  """run_group_apart, once more if the first time was noisy.

  Each row says which `attempt` it is of; one of the second holds what the first had as `first_attempt`.
  """
  first = run_group_apart(group, cases, rounds, enough)
  if not any(any_noisy(row) for row in first):
    return [row | dict(attempt=1) for row in first]
  say(f"  {group.name}: noisy, so once more")
  second = run_group_apart(group, cases, rounds, enough)
  if any(row.get("failed") for row in second):
    return [row | dict(attempt=1) for row in first]
  kept = ("value", "met", "samples_ms", "timing", "left_out")
  earlier = [{key: row[key] for key in kept if key in row} for row in first]
  return [row | dict(attempt=2, first_attempt=before) for row, before in zip(second, earlier, strict=True)]


def run_group_apart(group: Group, cases, rounds: int, enough: float = 0.0) -> list[dict]:
  """run_group in a process of its own; where that fails, rows without a figure that are marked as `failed`.

  PyTorch's contenders have such a process. Ours took longer in one that had measured other groups before: inference of
  `softmax` 1.04 of its time after three models' training (paired median of 25 rounds).
  """
  positions = [group.cases.index(case) for case in cases]
  try:
    return in_new_process(_rows_of, group.name, positions, rounds, enough)
  except RunFailed as error:
    say(f"  {group.name}: {error}")
    reason = "failed: " + str(error).splitlines()[-1]
    return [_row(case, {}, {}, dict.fromkeys(case.needs, reason)) | dict(failed=True) for case in cases]


def _rows_of(name: str, positions: list[int], rounds: int, enough: float) -> list[dict]:
  """The rows of a group, in a process where nothing else was computed."""
  keep_memory_on_cpu()
  group = next(group for group in GROUPS if group.name == name)
  return run_group(group, [group.cases[position] for position in positions], rounds, enough)


def run_group(group: Group, cases, rounds: int, enough: float = 0.0) -> list[dict]:
  """Builds what the cases need, measures, and gives one row a case."""
  missing = bool(group.needs) and importlib.util.find_spec(group.needs) is None
  reason = f"needs {group.needs}, see requirements-peers.txt"
  left_out = dict.fromkeys(group.optional, reason) if missing else {}
  contenders = {}
  try:
    for name, build in group.contenders.items():
      if name not in left_out and any(name in case.needs for case in cases):
        say(f"  {group.name}: building {name}")
        try:
          contenders[name] = build()
        except (UserError, RuntimeError) as error:  # a kernel elsewhere, too little memory
          left_out[name] = str(error).splitlines()[0]
    possible = [case for case in cases if not left_out.keys() & set(case.needs)]
    timed = any(isinstance(case, Ratio) or case.unit == "images/s" for case in possible)
    nothing = {name: [] for name in contenders}
    plan = dict(rounds=group.rounds, warm_up=0) if group.rounds else dict(rounds=rounds, enough=enough)
    seconds = measure.interleave(contenders, **plan) if timed else nothing
    return [_row(case, contenders, seconds, left_out) for case in cases]
  finally:
    for contender in contenders.values():
      contender.close()
    gc.collect()


def _row(case, contenders, seconds, left_out) -> dict:
  row = dict(id=case.id, what=case.what, target=case.target, unit=case.unit, headline=case.headline)
  reasons = [left_out[name] for name in case.needs if name in left_out]
  if reasons:
    return row | dict(left_out=reasons[0])
  value = case.value(contenders, {name: min(samples) for name, samples in seconds.items() if samples})
  samples = {name: seconds[name] for name in case.needs if seconds[name]}
  return row | dict(
    value=value,
    met=None if case.target is None else bool(value <= case.target),
    samples_ms={name: [round(1e3 * s, 4) for s in of] for name, of in samples.items()},
    timing={name: measure.summary(of) for name, of in samples.items()},
  )


def number(value: float | None, unit: str) -> str:
  """For the table."""
  if value is None:
    return ""
  return f"{value / 1e6:.0f} MB" if unit == "bytes" else f"{value:.3g}"


def markdown(rows) -> str:
  """The table of figures beside targets."""
  lines = ["| id | what | measured | target | | median/min |", "|---|---|---|---|---|---|"]
  for row in rows:
    target = "" if row["target"] is None else f"<= {number(row['target'], row['unit'])}"
    if "left_out" in row:
      lines.append(f"| {row['id']} | {row['what']} | left out: {row['left_out']} | {target} | | |")
      continue
    ratios = [t["median_ms"] / t["min_ms"] for t in row["timing"].values()]
    noise = "" if not ratios else f"{max(ratios):.2f}" + (" noisy" if any_noisy(row) else "")
    noise += " (2nd attempt)" if row.get("attempt") == 2 else ""
    met = {True: "met", False: "missed", None: ""}[row["met"]]
    value = number(row["value"], row["unit"])
    lines.append(f"| {row['id']} | {row['what']} | {value} | {target} | {met} | {noise} |")
  return "\n".join(lines)


def any_noisy(row) -> bool:
  """Whether a contender of the row was."""
  return any(t["noisy"] for t in row.get("timing", {}).values())


def headline(rows) -> dict:
  """The ratios and temporary bytes that the README quotes."""
  named = [row for row in rows if row["headline"] and "value" in row]
  return {
    "ratios": {row["headline"]: round(row["value"], 4) for row in named if row["unit"] == "x"},
    "temp_bytes": {row["headline"]: int(row["value"]) for row in named if row["unit"] == "bytes"},
  }


def say(line: str) -> None:
  """Progress, on standard error."""
  print(line, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
  """The command's.

  Raises:
    UserError: an `--out` that cannot be written, before anything is measured, or a negative number of rounds.
  """
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--suite", choices=SUITES, default="cpu")
  parser.add_argument(
    "--only", default="", help="figures (C5,M1), groups (ops_197) or headline; commas between"
  )
  rounds_help = (
    "after 2 to warm up (compiling: 3 and none); 0 = 7 to 49 until a group has 30 s, 3 in the suite quick"
  )
  parser.add_argument("--rounds", type=int, default=0, help=rounds_help)
  out_help = "JSON with every sample; a file that is there is renamed to FILE.1, FILE.2, ..."
  parser.add_argument("--out", default="", help=out_help)
  parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
  args = parser.parse_args()
  if args.rounds < 0:
    raise UserError(f"--rounds={args.rounds} is below 0; 0 takes the suite's own number.")
  out = pathlib.Path(args.out)
  # A device such as /dev/stdout is written itself, a file put into its folder.
  place = out if out.exists() and not out.is_file() else out.parent
  if args.out and (out.is_dir() or not out.parent.is_dir() or not os.access(place, os.W_OK)):
    raise UserError(f"--out={args.out} cannot be written; it is a file's name in a folder that is there.")
  return args


def write(path: pathlib.Path, results: dict) -> None:
  """The results as JSON; earlier ones of that name are kept under another."""
  if path.is_file() and path.stat().st_size:
    numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(1))
    earlier = next(name for name in numbered if not name.exists())
    path.rename(earlier)
    say(f"{path} was there and is {earlier} now")
  path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
  """Measures, prints, writes; the exit code."""
  args = arguments()
  wanted = wanted_cases(args.suite, args.only)
  # Nor does this process start JAX: an accelerator's memory belongs to one process at a time.
  environment = in_new_process(measure.environment)
  print(json.dumps(environment))
  quick = (QUICK_ROUNDS, 0.0)
  rounds, enough = (args.rounds, 0.0) if args.rounds else quick if args.suite == "quick" else (ROUNDS, ENOUGH)
  rows = [row for group, cases in wanted for row in quiet_rows(group, cases, rounds, enough)]
  noisy = any(any_noisy(row) for row in rows)
  print(markdown(rows))
  if args.out:
    about = dict(noisy=noisy, suite=args.suite, only=args.only, rows=rows)
    load = dict(load_average_at_end=os.getloadavg()[0])
    write(pathlib.Path(args.out), headline(rows) | about | load | environment)
  if any(row.get("failed") for row in rows):
    say("a group failed (see above), so its figures are missing")
    return FAILED_EXIT
  if noisy:
    say("noisy: some median was more than 1.5 times its minimum; measure again on a quieter machine")
    return NOISY_EXIT
  return int(args.strict and any(row.get("met") is False for row in rows))


if __name__ == "__main__":
  try:
    sys.exit(main())
  except UserError as error:
    say(f"error: {error}")
    sys.exit(2)

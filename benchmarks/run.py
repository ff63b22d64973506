"""All measurements of a suite, each figure beside its target.

    python -m benchmarks.run --suite=cpu --out=bench.json                    # 10 to 20 minutes on 2 cores
    python -m benchmarks.run --suite=cpu --only=C5,C6,C7 --out=bench.json    # some figures
    python -m benchmarks.run --suite=cpu --only=headline --out=bench.json    # those of the README, ratios as JSON
    python -m benchmarks.run --suite=quick                                   # does it run? one minute

Prints machine, versions, threads, load and commit, then a Markdown table; `--out` holds the same and every sample.
Each group runs in a process of its own, and each of its rounds runs a step of every contender; the figure is a ratio
of minima, ours over the other. A group with a contender whose median is more than 1.5 times its minimum is noisy, and
measured once more. Exit code 3: it was noisy again, so the machine is too busy and nothing should be quoted; 1: a
target was missed (with --strict). Contenders in PyTorch need requirements-peers.txt and are left out, with a line,
where there is none.
"""

import argparse
import gc
import importlib.util
import json
import multiprocessing
import os
import pathlib
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from benchmarks import compiling, devices, layers, measure, ops, steps
from benchmarks.cases import Group, Ratio
from convnn_jax.cli import keep_memory_on_cpu
from convnn_jax.errors import UserError, unknown_name

GROUPS = (*ops.GROUPS, *layers.GROUPS, *steps.GROUPS, *compiling.GROUPS, *devices.GROUPS)
SUITES = ("cpu", "gpu", "tpu", "quick")
# Rounds at least, and the seconds that a group's samples last at least (measure.interleave).
ROUNDS, ENOUGH = 7, 30.0
QUICK_ROUNDS = 3
NOISY_EXIT = 3


def wanted_cases(suite: str, only: str) -> list[tuple[Group, list]]:
  """Groups with those of their cases that are asked for.

  Raises:
    UserError: a word of `only` that is neither a figure nor a group.
  """
  words = [word for word in only.split(",") if word]
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


def in_new_process(function, *arguments):
  """What the function gives there; raises BrokenProcessPool where the process is ended before it does."""
  with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
    return pool.submit(function, *arguments).result()


def quiet_rows(group: Group, cases, rounds: int, enough: float = 0.0) -> list[dict]:
  """run_group_apart, once more if the first time was noisy; each row says which `attempt` it is of."""
  rows = run_group_apart(group, cases, rounds, enough)
  attempt = 1
  if any(any_noisy(row) for row in rows):
    say(f"  {group.name}: noisy, so once more")
    rows = run_group_apart(group, cases, rounds, enough)
    attempt = 2
  return [row | dict(attempt=attempt) for row in rows]


def run_group_apart(group: Group, cases, rounds: int, enough: float = 0.0) -> list[dict]:
  """run_group in a process of its own.

  PyTorch's contenders have such a process. Ours took longer in one that had measured other groups before: inference of
  `softmax` 1.04 of its time after three models' training (paired median of 25 rounds).
  """
  positions = [group.cases.index(case) for case in cases]
  try:
    return in_new_process(_rows_of, group.name, positions, rounds, enough)
  except BrokenProcessPool:
    reason = "its process was ended, as it is where memory is short"
    return [_row(case, {}, {}, dict.fromkeys(case.needs, reason)) for case in cases]


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
        except (
          UserError,
          RuntimeError,
          NotImplementedError,
        ) as error:  # a kernel elsewhere, too little memory
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


def main() -> int:
  """Measures, prints, writes; the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--suite", choices=SUITES, default="cpu")
  parser.add_argument(
    "--only", default="", help="figures (C5,M1), groups (ops_197) or headline; commas between"
  )
  rounds_help = (
    "after 2 to warm up (compiling: 3 and none); 0 = 7 to 49 until a group has 30 s, 3 in the suite quick"
  )
  parser.add_argument("--rounds", type=int, default=0, help=rounds_help)
  parser.add_argument("--out", default="", help="JSON with every sample")
  parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
  args = parser.parse_args()
  # Nor does this process start JAX: an accelerator's memory belongs to one process at a time.
  environment = in_new_process(measure.environment)
  print(json.dumps(environment))
  rows = []
  quick = (QUICK_ROUNDS, 0.0)
  rounds, enough = (args.rounds, 0.0) if args.rounds else quick if args.suite == "quick" else (ROUNDS, ENOUGH)
  for group, cases in wanted_cases(args.suite, args.only):
    rows += quiet_rows(group, cases, rounds, enough)
  noisy = any(any_noisy(row) for row in rows)
  print(markdown(rows))
  if args.out:
    everything = {
      **headline(rows),
      "noisy": noisy,
      "suite": args.suite,
      "only": args.only,
      "rows": rows,
      "load_average_at_end": os.getloadavg()[0],
      **environment,
    }
    pathlib.Path(args.out).write_text(json.dumps(everything, indent=1) + "\n")
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

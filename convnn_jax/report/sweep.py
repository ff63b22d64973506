"""Runs the points of a sweep, each an ordinary run in a folder of its own, and tells what came out.

    python -m convnn_jax.report.sweep --config=configs/sot_entropy_sweep.py:digits
    python -m convnn_jax.report.sweep --config=configs/sot_entropy_sweep.py:digits --vmap=8
    python -m convnn_jax.report.sweep --config=FILE --jobs=4 --limit=10 --config.num_epochs=5

The same command goes on after an interruption; finished points are not run again. --help lists the flags;
convnn_jax/report/points.py says what a config file must have.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence

from convnn_jax import cli
from convnn_jax.errors import RunFailed, UserError, choose
from convnn_jax.report import jobs, sweep_results
from convnn_jax.report.points import Point, read_points
from convnn_jax.training import config as config_lib
from convnn_jax.training import exchange
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.metrics import say


def main(argv: Sequence[str]) -> None:
  """Parses flags, checks everything, runs what is not finished, writes tables and the plot."""
  args, words = _parse(argv)
  root = pathlib.Path(args.workdir or os.path.join("runs", f"sweep-{config_lib.name_of(args.config)}"))
  if args.only:
    _train([_only(args, words)], root)
    return
  mine = {"config": args.config, "overrides": words}
  _check_root(root, mine)
  points = read_points(args.config, words, args.limit)
  _check_folders(points, root)
  baseline = sweep_results.external_baseline(args.baseline)
  waiting = [point for point in points if not _finished(point, root)]
  if args.jobs > 1:  # this process computes nothing: its share of a GPU's memory belongs to the others
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  if args.vmap:
    _check_shapes(points)
  check_points(waiting, together=bool(args.vmap))
  _claim(root, mine)  # last: a sweep that cannot run leaves the folder to the corrected one

  say(f"{len(points)} points, {len(points) - len(waiting)} of them finished; writing {root}")
  failed = {}
  try:
    if args.vmap:
      done, failed = _vmap(waiting, root, args.vmap)
    elif args.jobs > 1 and len(waiting) > 1:
      command = [f"--config={args.config}", f"--workdir={root}", *words]
      done, failed = jobs.run(waiting, root, args.jobs, command)
    else:
      done, failed = _train(waiting, root)
  except BaseException:
    for line in sweep_results.write(points, root, baseline):
      say(f"left out: {line}")  # what ended the sweep comes last
    raise
  damaged = sweep_results.write(points, root, baseline)
  if not done:
    say("interrupted; the same command goes on")
  elif failed:
    reasons = "; ".join([*(f"{name}: {reason}" for name, reason in failed.items()), *damaged])
    raise RunFailed(f"{len(failed)} of {len(points)} points failed: {reasons}")
  if damaged:
    raise UserError(f"left out: {'; '.join(damaged)}")


def _parse(argv):
  parser = cli.Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", required=True, help="FILE.py or FILE.py:ARGUMENT, with sweep()")
  parser.add_argument("--workdir", default="", help="folder of the sweep; default runs/sweep-NAME[-ARGUMENT]")
  parser.add_argument(
    "--jobs", type=int, default=1, help="so many points at a time, each in a process of its own"
  )
  parser.add_argument("--vmap", type=int, default=0, help="so many points at a time in one compiled program")
  parser.add_argument("--limit", type=int, default=0, help="only the first so many points; 0 = all")
  parser.add_argument(
    "--baseline", action="append", default=[], help="folder of a finished run, drawn as a band"
  )
  parser.add_argument("--only", default="", help=cli.argparse.SUPPRESS)
  args, words = parser.parse_known_args(argv)
  for flag, least in (("jobs", 1), ("vmap", 0), ("limit", 0)):
    if getattr(args, flag) < least:
      raise UserError(f"--{flag}={getattr(args, flag)} must be at least {least}.")
  if args.vmap and args.jobs > 1:
    raise UserError("--jobs and --vmap are two ways to do the same; leave one out.")
  return args, _joined(words)


def _joined(words: Sequence[str]) -> list[str]:
  """Overrides in one spelling and order; of a repeated field the last one."""
  fields = dict(word.split("=", 1) for word in exchange.join_values(words))
  return sorted(f"{field}={value}" for field, value in fields.items())


def _only(args, words) -> Point:
  """The point that a process of --jobs was started for."""
  points = {f"{point.part}/{point.name}": point for point in read_points(args.config, words)}
  return choose("point", args.only, points)


def _normal(note: dict) -> dict:
  """A sweep's note with its overrides as `_parse` writes them; as it is if it has none."""
  try:
    return {**note, "overrides": _joined(note["overrides"])}
  except (UserError, TypeError, AttributeError):
    return note


def _check_root(root: pathlib.Path, mine: dict) -> None:
  """Checks that the sweep's folder is this sweep's, or free; changes nothing."""
  note = root / "sweep.json"
  try:
    if note.exists():
      theirs = json.loads(note.read_text())
      if not isinstance(theirs, dict) or not isinstance(theirs.get("overrides"), list):
        raise ValueError("not the note of a sweep")
      if _normal(theirs) != mine:
        shown = lambda it: " ".join([f"--config={it.get('config')}", *map(str, it["overrides"])])
        raise UserError(
          f"{root} holds the sweep {shown(theirs)}, not {shown(mine)}; choose another --workdir."
        )
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
      raise UserError(f"--workdir={root} is there and is no sweep; choose another --workdir.")
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be used: {error.strerror or error}; choose another.") from error
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f"{note} cannot be read ({error}); choose another --workdir.") from error


def _claim(root: pathlib.Path, mine: dict) -> None:
  """Makes the folder, and notes whose it is."""
  try:
    if not (root / "sweep.json").exists():
      root.mkdir(parents=True, exist_ok=True)
      workdir_lib.write_atomically(root / "sweep.json", json.dumps(mine, indent=2) + "\n")
  except OSError as error:
    raise UserError(f"--workdir={root} cannot be used: {error.strerror or error}; choose another.") from error


def folder_of(point: Point, root: pathlib.Path) -> pathlib.Path:
  """Where a point runs."""
  return root / point.part / point.name


def _check_folders(points: list[Point], root: pathlib.Path) -> None:
  """Before anything runs: the config file may have changed since the sweep began."""
  for point in points:
    if not (folder_of(point, root) / "config.json").exists():
      continue
    folder, saved = workdir_lib.load_config(folder_of(point, root))
    if lines := config_lib.differences(saved, point.config):
      raise UserError(
        f"{folder} was run with another config; choose another --workdir. Differing fields (saved -> now):"
        f" {'; '.join(lines)}"
      )


def check_points(points: list[Point], *, together: bool = False) -> None:
  """Builds every point as its run would, shapes only, so that none is found to be impossible after hours.

  Args:
    points: that will run.
    together: with --vmap.

  Raises:
    UserError: a point cannot run, and is named.
  """
  if not points:
    return
  from convnn_jax.training import members
  from convnn_jax.training.assemble import assemble

  seen: set[str] = set()
  for point in points:
    flat = config_lib.flatten(point.config.to_dict())
    key = repr(sorted((field, value) for field, value in flat.items() if field != "seed"))
    try:
      config_lib.validate(point.config)  # the seed, too
      if key not in seen:
        info = assemble(point.config).info
        if together:
          members.check_possible(point.config, info)
    except UserError as error:
      raise UserError(f"{point.part}/{point.name}: {error}") from error
    seen.add(key)


def _check_shapes(points: list[Point]) -> None:
  """Refuses --vmap if no two points can share a program."""
  from convnn_jax.training import members

  shapes = [members.fixed_fields(point.config) for point in points]
  if len(shapes) > 1 and len(set(shapes)) == len(shapes):
    members.check_alike([point.config for point in points])  # names what keeps them apart


def _finished(point: Point, root: pathlib.Path) -> bool:
  return (folder_of(point, root) / "result.json").exists()


def _train(points: list[Point], root: pathlib.Path) -> tuple[bool, dict[str, str]]:
  """One after another in this process; (all were tried, name -> why it failed)."""
  from convnn_jax.training.loop import train

  failed = {}
  for number, point in enumerate(points, 1):
    say(f"\npoint {number} of {len(points)}: {point.name}")
    try:
      if train(point.config, str(folder_of(point, root))) is None:
        return False, failed
    except RunFailed as error:
      say(f"failed: {error}")
      failed[point.name] = str(error)
    except UserError as error:
      raise UserError(f"{point.part}/{point.name}: {error}") from error
  return True, failed


def _vmap(points: list[Point], root: pathlib.Path, size: int) -> tuple[bool, dict[str, str]]:
  """Points that can share a program in groups of up to `size`, in their order."""
  from convnn_jax.training import members

  families: dict[tuple, list[Point]] = {}
  for point in points:  # those that go on from one step, together
    key = members.fixed_fields(point.config), members.last_step(folder_of(point, root))
    families.setdefault(key, []).append(point)
  failed = {}
  for family in families.values():
    for begin in range(0, len(family), size):
      group = family[begin : begin + size]
      say(f"\n{', '.join(point.name for point in group)}")
      folders = [str(folder_of(point, root)) for point in group]
      results = members.train_members([point.config for point in group], folders)
      if results is None:
        return False, failed
      failed |= {p.name: str(r) for p, r in zip(group, results, strict=True) if isinstance(r, RunFailed)}
  return True, failed


if __name__ == "__main__":
  sys.exit(cli.run(main, sys.argv[1:]))

"""The folder of a run: config.json, model.txt, metrics.jsonl, checkpoints/, result.json."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence

import jax
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

from convnn_jax import __version__
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib

# So many runs an error names.
_MOST_NAMED = 12


def open_workdir(path: str, config: ConfigDict, flag: str = "--workdir") -> epath.Path:
  """Makes the folder of a new run, or checks that an existing one belongs to the same config.

  `flag` is the one that gave the path, for messages.

  Raises:
    UserError: it cannot be written, or it holds another config; names the differing fields.
  """
  workdir = epath.Path(path)
  if "://" not in os.fspath(path):
    workdir = workdir.expanduser().resolve()
  saved = workdir / "config.json"
  try:
    for folder in (workdir, workdir / "checkpoints"):
      if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}={path}: {folder} is a file, but must be a folder; choose another {flag}.")
    if saved.exists():
      _check_same(workdir, _read_config(saved), config, flag)
    barrier("workdir checked")  # all processes look before the first one writes
    if jax.process_index() == 0 and not saved.exists():
      workdir.mkdir(parents=True, exist_ok=True)
      write_atomically(saved, config_lib.to_json(config))
    elif jax.process_index() == 0:
      probe = workdir / ".writable"
      probe.write_text("")
      probe.unlink()
  except OSError as error:
    reason = error.strerror or str(error)
    raise UserError(
      f"{flag}={path} cannot be used: {reason}. Choose a folder that can be written."
    ) from error
  barrier("workdir made")
  return workdir


def _check_same(workdir, saved: ConfigDict, config: ConfigDict, flag: str) -> None:
  lines = config_lib.differences(saved, config)
  if lines:
    raise UserError(
      f"{workdir} holds a run with another config. Choose another {flag}, or give the saved values to go on"
      f" with that run. Differing fields (saved -> now): {'; '.join(lines)}"
    )


@contextlib.contextmanager
def only_run_in(workdir: epath.Path, flag: str = "--workdir"):
  """Keeps a second training out of the folder; the system frees it when this process ends, however it ends.

  Raises:
    UserError: another process trains in the folder.
  """
  if jax.process_index() or fcntl is None or "://" in os.fspath(workdir):
    yield
    return
  with open(workdir / ".lock", "a") as file:  # not "w": an existing file stays untouched
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(
        f"Another process trains in {workdir}; wait for it, or choose another {flag}."
      ) from error
    except OSError:
      pass  # a file system without locks
    yield


def has_begun(path: str) -> bool:
  """Whether a run in this folder has saved a step."""
  checkpoints = epath.Path(path).expanduser() / "checkpoints"
  return checkpoints.is_dir() and any(step.name.isdigit() for step in checkpoints.iterdir())


def load_config(path: str, flag: str = "--workdir") -> tuple[epath.Path, ConfigDict]:
  """The folder and the saved config of a run; `flag` is what the user gave it by.

  Raises:
    UserError: there is no run.
  """
  workdir = epath.Path(path)
  if "://" not in os.fspath(path):
    workdir = workdir.expanduser().resolve()
  saved = workdir / "config.json"
  if not saved.exists():
    raise UserError(
      f"{flag}={path} holds no run (no config.json); train.py begins one.{runs_beside(workdir)}"
    )
  return workdir, _read_config(saved)


def runs_beside(workdir) -> str:
  """A sentence that names the runs in the same folder as `workdir`; "" if there are none."""
  folder = workdir.parent
  near = sorted(path.parent.name for path in folder.glob("*/config.json")) if folder.is_dir() else []
  more = f" and {len(near) - _MOST_NAMED} more" if len(near) > _MOST_NAMED else ""
  return f" Runs in {folder}: {', '.join(near[:_MOST_NAMED])}{more}." if near else ""


def _read_config(path: epath.Path) -> ConfigDict:
  try:
    config = config_lib.from_json(path.read_text())
    # Later versions have more fields; those without which there is no run are in all of them.
    for section in ("data", "model"):
      if not isinstance(config.get(section), ConfigDict) or not isinstance(config[section].get("name"), str):
        raise ValueError(f"no name of config.{section}")
    if not isinstance(config.get("num_epochs"), int):
      raise ValueError("no config.num_epochs")
    return config
  except (OSError, ValueError) as error:  # ValueError: neither text nor JSON
    raise UserError(
      f"{path} cannot be read ({error}); put back a copy, or choose another --workdir."
    ) from error


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def write_atomically(path: epath.Path, text: str) -> None:
  """The file is there as a whole or not at all."""
  temporary = path.parent / (path.name + ".tmp")
  temporary.write_text(text)
  temporary.replace(path)


def write_once(path: epath.Path, text: str) -> None:
  """Writes a file from the first process, unless it is there."""
  if jax.process_index() == 0 and not path.exists():
    write_atomically(path, text)


def set_aside(path: epath.Path) -> epath.Path:
  """Renames a file that would be written again, so that nothing is lost; returns its new path."""
  number = 1
  while (new := path.parent / f"{path.stem}.previous-{number}{path.suffix}").exists():
    number += 1
  path.rename(new)
  return new


def read_result(workdir: epath.Path, numbers: Sequence[str] = (), words: Sequence[str] = ()) -> dict | None:
  """Contents of result.json, where `numbers` and `words` must be; None if the run has not come to its end.

  Raises:
    UserError: it cannot be read, or lacks a field.
  """
  path = workdir / "result.json"
  if not path.exists():
    return None
  try:
    result = json.loads(path.read_text())
    if not isinstance(result, dict):
      raise ValueError("not a table of fields")
    wrong = [name for name in numbers if not isinstance(result.get(name), (int, float))]
    wrong += [name for name in words if not isinstance(result.get(name), str)]
    if wrong:
      raise ValueError(f"no proper value of {', '.join(wrong)}")
    return result
  except (OSError, ValueError) as error:
    raise UserError(
      f"{path} cannot be read ({error}); move it away and run `python train.py`, or the sweep, again to write it anew."
    ) from error


def environment() -> dict:
  """Device, versions and commit, for result.json."""
  packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
  versions = {name: importlib.metadata.version(name) for name in packages}
  return {
    "device": jax.devices()[0].device_kind,
    "num_devices": jax.device_count(),
    "num_processes": jax.process_count(),
    "versions": {"convnn_jax": __version__, "python": platform.python_version(), **versions},
    "commit": _commit(),
  }


def _commit() -> str:
  """Commit of this package's checkout, "-dirty" appended if files were changed; "" outside of git."""
  folder = os.path.dirname(os.path.abspath(__file__))
  try:
    described = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=10,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return ""
  return described.stdout.strip()

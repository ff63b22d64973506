"""Parameters that a new run starts from: those of another run, or of a converted checkpoint.

Taken are the parameters that evaluation uses (the averages, if there are any) and the model's other variables; neither
optimiser state nor step. Position tables are resized and a head for other classes starts from zero
(models/transfer.py); everything else must fit.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from convnn_jax.errors import UserError
from convnn_jax.models import transfer
from convnn_jax.training import config as config_lib
from convnn_jax.training import sharding
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.assemble import Pieces
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.checkpoint_checks import by_path
from convnn_jax.training.state import TrainState

# Differences that are said aloud: what the model computes, and how it sees its images.
_TOLD = ("model.", "data.normalization")
_EXPLAINS = ("model.", "data.name", "data.image_size")


class Start(NamedTuple):
  """What a run starts from, checked; no array is read yet.

  Attributes:
    folder, step: the checkpoint.
    saved: what is there, a pytree of anything with shape and dtype.
    changes: path of a parameter -> what is done to it.
    lines: what the user should know.
  """

  folder: epath.Path
  step: int
  saved: Any
  changes: dict[str, transfer.Change]
  lines: list[str]


def plan(config: ConfigDict, pieces: Pieces) -> Start | None:
  """Finds and checks what `config.init_from` names; None if it is empty.

  Raises:
    UserError: there is no such run or step, or it holds another model.
  """
  if not config.init_from:
    return None
  path, step = place(config.init_from)
  if pathlib.Path(path).is_file():
    raise UserError(
      f"config.init_from={path} is a file, but must be the folder of a run; make one of it: python -m"
      f" convnn_jax.convert {path} --config=... --out=runs/NAME."
    )
  folder, theirs = workdir_lib.load_config(path, "config.init_from")
  with Checkpoints(folder, mode="read") as checkpoints:
    found = checkpoints.shapes("params", step)
  if found is None:
    raise UserError(f"config.init_from={path} has no checkpoint yet; train it first.")
  number, saved = found
  there, here = by_path(saved["params"]), by_path(pieces.state_shapes.params)
  changes, problems = transfer.plan(there, here, config.model.to_dict(), pieces.info.image_shape[:2])
  if problems:
    raise UserError(_another_model(config, theirs, problems))
  lines = [f"starting from step {number} of {folder}", *transfer.lines(changes)]
  if told := _differing(theirs, config, _TOLD):
    lines.append(f"its config has other values (there -> here): {told}")
  return Start(folder, number, saved, changes, lines)


def started(state: TrainState, start: Start, pieces: Pieces) -> TrainState:
  """The new state with the parameters of `start`."""
  here = by_path(pieces.state_shapes.params)
  everywhere = sharding.replicated(pieces.mesh)
  with Checkpoints(start.folder, mode="read") as checkpoints:
    _, items, _ = checkpoints.restore({"params": _target(start, here, everywhere)}, start.step)
  given = by_path(items["params"]["params"])
  new = {path: _changed(start.changes[path], given.get(path), here[path]) for path in start.changes}
  path_of = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  choose = lambda path, leaf: new.get(path_of(path), given.get(path_of(path)))
  params = jax.tree_util.tree_map_with_path(choose, state.params)
  collections = {
    name: items["params"]["collections"][name] if _same(start, pieces, name) else variables
    for name, variables in state.collections.items()
  }
  # A copy: the step donates its input, and one buffer must not be donated twice.
  ema = () if state.ema == () else jax.tree.map(jnp.copy, params)
  return state.replace(params=params, ema=ema, collections=collections)


def place(init_from: str) -> tuple[str, int | str]:
  """Folder and step of a run: "runs/a:best" -> ("runs/a", "best"); the last checkpoint unless given."""
  path, colon, step = init_from.rpartition(":")
  if colon and step.isascii() and step.isdigit():
    return path, int(step)
  return (path, step) if colon and step in ("best", "last") else (init_from, "last")


def _another_model(config, theirs, problems) -> str:
  more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
  differing = _differing(theirs, config, _EXPLAINS)
  fields = f" Fields that differ (there -> here): {differing}." if differing else ""
  return (
    f"config.init_from={config.init_from} holds another model: {'; '.join(problems[:3])}{more}.{fields} Give the"
    " values of that run, or leave out init_from."
  )


def _differing(theirs, config, beginnings) -> str:
  return "; ".join(line for line in config_lib.differences(theirs, config) if line.startswith(beginnings))


def _target(start, here, everywhere):
  """What to read, and where to: in its final place what is taken as it is."""

  def where_to(path, leaf):
    section, _, name = jax.tree_util.keystr(path, simple=True, separator="/").partition("/")
    as_it_is = section == "params" and name in here and name not in start.changes
    where = here[name].sharding if as_it_is else everywhere
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

  return jax.tree_util.tree_map_with_path(where_to, start.saved)


def _changed(change, given, here):
  array = change.apply(None if given is None else np.asarray(given)).astype(here.dtype)
  return jax.make_array_from_callback(here.shape, here.sharding, lambda index: array[index])


def _same(start, pieces, name) -> bool:
  """Whether a collection of variables is there in the same shapes."""
  shapes = lambda tree: {path: tuple(leaf.shape) for path, leaf in by_path(tree).items()}
  there = start.saved.get("collections", {}).get(name, {})
  return shapes(there) == shapes(pieces.state_shapes.collections[name])

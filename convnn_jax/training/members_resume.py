"""Where the runs of a group go on from, what they save, and which of them have failed for good."""

import json
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from convnn_jax.errors import RunFailed, UserError
from convnn_jax.training import workdir as workdir_lib
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.members_program import Members
from convnn_jax.training.metrics import say
from convnn_jax.training.record import RunRecord


class Apart(Exception):
  """No step is common to the whole group.

  Attributes:
    parts: lists of positions in the group; each can go on together.
  """

  def __init__(self, parts: list[list[int]]):
    """See the attributes."""
    super().__init__(parts)
    self.parts = parts


def last_step(folder) -> int:
  """The newest step that a run has saved; 0 if there is none."""
  if not workdir_lib.has_begun(folder):
    return 0
  return max(_steps(folder), default=0)


def restore_or_create(group: Members, folders: Sequence[epath.Path]):
  """(state, records) of the last step that all members have saved, or of step 0 if none has saved any.

  Damaged steps are told and moved to checkpoints/damaged-<step>, as in single runs. Where a member has saved more than
  the others, its later steps are kept as checkpoints/unused-<step>.

  Raises:
    Apart: some have saved steps, but no readable one is common to all.
    UserError: all checkpoints of a member are damaged, or of another model.
  """
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
  target = jax.tree.map(place, group.pieces[0].state_shapes)
  while True:
    steps = [set(_steps(folder)) for folder in folders]
    if not any(steps):
      return group.create_state(), [RunRecord() for _ in folders]
    common = sorted(set.intersection(*steps), reverse=True)
    if not common:
      raise Apart(_by_last_step(steps))
    restored = _restore_all(group, folders, target, steps, common)
    if restored is not None:
      break
  for number, (folder, own) in enumerate(zip(folders, steps, strict=True)):
    if max(own) > common[0]:
      with Checkpoints(folder, keep=group.configs[number].keep_checkpoints) as checkpoints:
        kept = ", ".join(map(str, checkpoints.set_aside_after(common[0])))
      say(
        f"run {number} goes back to step {common[0]}, the last that all have saved; later ones are kept: {kept}"
      )
  states, records = restored
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *states)
  return jax.device_put(stacked, group.by_member), records


def _steps(folder) -> list[int]:
  with Checkpoints(folder, mode="read") as checkpoints:
    return checkpoints.steps()


def _by_last_step(steps: list[set[int]]) -> list[list[int]]:
  parts: dict[int, list[int]] = {}
  for number, own in enumerate(steps):
    parts.setdefault(max(own, default=0), []).append(number)
  return list(parts.values())


def _restore_all(group, folders, target, steps, common):
  """(states, records) of step common[0]; None if it is damaged in a folder, where it is moved aside then."""
  states, records = [], []
  for config, folder, own in zip(group.configs, folders, steps, strict=True):
    wanted = [
      *common,
      *sorted(own - set(common), reverse=True),
    ]  # others only to tell what is left of this run
    with Checkpoints(folder, keep=config.keep_checkpoints) as checkpoints:
      step, items, meta = checkpoints.restore(target.checkpoint_items(), wanted)
    if step != common[0]:
      return None
    states.append(jax.device_get(target.with_checkpoint_items(items)))
    records.append(RunRecord.from_meta(meta))
  return states, records


def save(state, records, folders, keep: int, failed, tests) -> None:
  """Saves the members that have not failed; `tests` are their evaluations of this step, or None each."""
  host = jax.device_get(state)
  for number, (record, folder, test) in enumerate(zip(records, folders, tests, strict=True)):
    if number in failed:
      continue
    items = jax.tree.map(lambda leaf, i=number: jax.device_put(leaf[i]), host).checkpoint_items()
    with Checkpoints(folder, keep=keep) as checkpoints:
      metric = None if test is None else test["top1"]
      checkpoints.save(record.step, items, record.to_meta(), metric=metric, finish="now")


def note_failure(folder: epath.Path, error: RunFailed) -> None:
  """Writes failed.json: its group goes on without this run, also after an interruption."""
  workdir_lib.write_atomically(folder / "failed.json", json.dumps({"reason": str(error)}, indent=2) + "\n")


def failure(folder) -> RunFailed | None:
  """Why a run failed in an earlier session of its group, and what to do to try it again."""
  path = epath.Path(folder).expanduser() / "failed.json"
  if not path.exists():
    return None
  try:
    reason = json.loads(path.read_text())["reason"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} cannot be read; move it away, and its run is tried again.") from error
  return RunFailed(f"{reason} Noted in {path}; move it away to try again.")

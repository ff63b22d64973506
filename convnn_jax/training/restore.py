"""Models of finished or running runs, for evaluation and reports."""

import jax
from etils import epath

from convnn_jax import data
from convnn_jax.errors import UserError
from convnn_jax.training import sharding
from convnn_jax.training.assemble import Pieces, assemble
from convnn_jax.training.checkpoint import Checkpoints
from convnn_jax.training.evaluate import Evaluator


def fit_mesh(config) -> None:
  """Lets a run that was trained on other devices use those that are here, all along the data axis."""
  with config.unlocked():
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    # The batch of training has no part in evaluation, but has to fit the mesh.
    config.batch_size = jax.device_count()
    config.optimizer.accumulate = 1
    config.steps_per_call = 1


def restore_variables(folder: epath.Path, pieces: Pieces, step: int | str = "last"):
  """(step, variables) of a checkpoint, on the run's mesh; the averaged parameters if there are any.

  Raises:
    UserError: no checkpoint, or not this one.
  """
  with Checkpoints(folder, mode="read") as checkpoints:
    target = {"params": pieces.state_shapes.checkpoint_items()["params"]}
    restored = checkpoints.restore(target, step)
  if restored is None:
    raise UserError(f"{folder} has no checkpoint yet; train first.")
  number, items, _ = restored
  return number, {"params": items["params"]["params"], **items["params"]["collections"]}


def evaluate_checkpoint(folder: epath.Path, config, step: int | str = "last") -> dict:
  """Evaluates one checkpoint on the test set.

  Returns:
    loss, top1, top5 (fractions), num_examples, step, images_per_second, and what they were measured on.
  """
  fit_mesh(config)
  pieces = assemble(config)
  number, variables = restore_variables(folder, pieces, step)
  test = data.open_dataset(config.data).test
  resident = data.resident(test, sharding.batch_sharding(pieces.mesh))
  evaluate = Evaluator(pieces, config, test, resident)
  return {
    **evaluate(variables),
    "num_examples": len(test),
    "step": number,
    "images_per_second": round(evaluate.images_per_second(variables), 1),
    "workdir": str(folder),
    "device": jax.devices()[0].device_kind,
    "num_devices": jax.device_count(),
  }

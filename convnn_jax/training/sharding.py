"""Devices: the mesh, and where batches and parameters lie on it. The only file that knows about devices.

Modules say nothing about sharding; RULES match parameter paths. Optimiser moments and averages have the path
of their parameter at the end of their own, so the same rules place them.
"""

import re
from math import prod

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")

# First match wins; an axis that does not divide its dimension, and what matches nothing, is replicated.
RULES = (
  (r"(query|key|value)/kernel$", ("fsdp", "tensor", None)),  # [c h d]
  (r"attention/out/kernel$", ("tensor", None, "fsdp")),  # [h d c]
  (r"mlp/hidden_layer/kernel$", ("fsdp", "tensor")),  # [c hidden]
  (r"mlp/out/kernel$", ("tensor", "fsdp")),  # [hidden c]
  (r"patch_embedding/projection/kernel$", (None, None, None, "fsdp")),
  (r"head/kernel$", ("fsdp", None)),
)


def make_mesh(config) -> Mesh:
  """The mesh of config.mesh over all devices of all processes; -1 = what is left.

  Axes are Auto: under Explicit axes (the default of jax.make_mesh) Flax's dropout and gathers fail.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  sizes = {axis: config[axis] for axis in AXES}
  total = jax.device_count()
  given = {axis: size for axis, size in sizes.items() if size != -1}
  product = prod(given.values())
  shown = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  if len(sizes) - len(given) > 1 or any(size < 1 for size in given.values()):
    raise UserError(f"config.mesh ({shown}): sizes must be at least 1, and only one of them may be -1.")
  free = [axis for axis in sizes if axis not in given]
  if total % product or (not free and product != total):
    raise UserError(
      f"config.mesh ({shown}) does not fit the {total} devices present: its sizes must"
      f" {'divide' if free else 'multiply to'} {total}."
    )
  for axis in free:
    sizes[axis] = total // product
  return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Leading axis over `data` and `fsdp`."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
  """In how many parts a batch is cut."""
  return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
  """Raises UserError unless every device gets the same whole number of images in each part of a step."""
  parts = batch_shards(mesh) * accumulate
  if batch_size % parts:
    below = batch_size - batch_size % parts
    near = f"{below} or {below + parts}" if below else str(parts)
    what = f"the {batch_shards(mesh)} devices that share a batch"
    what += f" times optimizer.accumulate={accumulate}" if accumulate > 1 else ""
    raise UserError(f"config.batch_size={batch_size} must be divisible by {what}; use {near}.")


def infer(tree, mesh: Mesh, rules=RULES):
  """A tree of NamedSharding for a tree of arrays or shapes, by the rules."""

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    axes = next((axes for pattern, axes in rules if re.search(pattern, name)), ())
    if len(axes) != leaf.ndim:
      return replicated(mesh)
    fits = (axis if axis and leaf.shape[i] % mesh.shape[axis] == 0 else None for i, axis in enumerate(axes))
    return NamedSharding(mesh, PartitionSpec(*fits))

  return jax.tree_util.tree_map_with_path(place, tree)


def with_sharding(shapes, layout):
  """A tree of ShapeDtypeStruct that carry their sharding, as a target for restoring."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, layout
  )

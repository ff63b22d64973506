"""What the tests of checkpoints save, and how they compare it."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Moments(NamedTuple):
  count: jax.Array
  mu: dict


@flax.struct.dataclass
class Average:
  weight: jax.Array


def make_items(step, num_devices=8):
  """Arrays that depend on the step; the kernel split over the devices, the rest on each."""
  mesh = jax.make_mesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("data"))
  everywhere = NamedSharding(mesh, PartitionSpec())
  rng = np.random.default_rng(step)

  def noise(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {
    "head": {"kernel": jax.device_put(noise(64, 48), split), "bias": np.zeros(48, jnp.bfloat16)},
    "scale": noise(),
  }
  rest = {
    "opt": (Moments(np.int32(step), {"kernel": noise(64, 48)}), (), None),
    "average": Average(noise(3)),
    "key": np.asarray(jax.random.key_data(jax.random.key(step))),
    "seen": np.array([True, False]),
  }
  return jax.tree.map(
    lambda x: x if isinstance(x, jax.Array) else jax.device_put(x, everywhere),
    {"params": params, "rest": rest},
  )


def targets_of(items):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)


TARGETS = targets_of(make_items(0))


def save(checkpoints, *steps, metric=None):
  for step in steps:
    meta = {"step": step}
    assert checkpoints.save(step, make_items(step), meta, metric=metric, finish="now")


def check_equal(items, step):
  expected = {name: make_items(step)[name] for name in items}
  assert jax.tree.structure(items) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, items, expected)

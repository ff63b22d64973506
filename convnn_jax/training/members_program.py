"""The compiled program of several runs of equal shape (the step of one run under jax.vmap), and who fits into it."""

import functools
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from convnn_jax import data
from convnn_jax.attention import settled
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble, build, init_key
from convnn_jax.training.state import TrainState
from convnn_jax.training.step import make_eval_step, make_train_step

# Numbers that can differ between members; below `model`, in attentions at any depth.
TRACED = ("seed", "optimizer.learning_rate", "optimizer.weight_decay", "loss.label_smoothing")
TRACED_IN_MODEL = ("regularization", "temperature")


def can_differ(field: str) -> bool:
  """Whether members may have different values of a field such as "model.attention.temperature"."""
  parts = field.split(".")
  return field in TRACED or (parts[0] == "model" and parts[-1] in TRACED_IN_MODEL)


def fixed_fields(config: ConfigDict) -> tuple:
  """What members of one program must have in common; equal for configs that pass `check_alike`."""
  flat = config_lib.flatten(_settled(config))
  return tuple(sorted((field, repr(value)) for field, value in flat.items() if not can_differ(field)))


def _settled(config: ConfigDict) -> dict:
  """The config as a dict, its attentions' choices made as in the single run."""
  tree = config.to_dict()
  if isinstance(attention := tree["model"].get("attention"), dict):
    tree["model"]["attention"] = settled(attention)
  return tree


def check_alike(configs: Sequence[ConfigDict]) -> list[str]:
  """Returns the fields in which the members differ.

  Raises:
    UserError: one of them cannot differ within a program; names all of these.
  """
  flat = [config_lib.flatten(_settled(config)) for config in configs]
  fields = sorted(set[str]().union(*flat))
  absent = object()
  differing = [f for f in fields if any(c.get(f, absent) != flat[0].get(f, absent) for c in flat)]
  if fixed := [f for f in differing if not can_differ(f)]:
    values = lambda field: ", ".join(dict.fromkeys(str(c.get(field, "absent")) for c in flat))
    shown = "; ".join(f"{field} ({values(field)})" for field in fixed)
    raise UserError(
      f"--vmap trains runs of one shape, which may differ in {', '.join(TRACED)} and, in attentions,"
      f" {' and '.join(TRACED_IN_MODEL)}. These differ in {shown}; leave out --vmap, or fix these fields."
    )
  return differing


def check_possible(config: ConfigDict, info: data.DataInfo) -> None:
  """Raises UserError if a run of this config can be no member of a group."""
  if info.storage != "memory":
    raise UserError(
      f"--vmap needs images that lie on the device; '{info.name}' is read from disk in batches. Leave out --vmap."
    )
  if config.init_from:
    raise UserError("--vmap trains from new parameters only; leave out --vmap or config.init_from.")
  if config.steps_per_call > 1:
    raise UserError(
      f"--vmap trains step by step: config.steps_per_call={config.steps_per_call} must be 1 with it."
    )


class Members:
  """The compiled parts of a group.

  Attributes:
    pieces: of every member; what does not depend on the numbers is the first one's.
  """

  def __init__(self, configs: Sequence[ConfigDict]):
    """Checks every member as its single run would be; compiles nothing yet."""
    fields = check_alike(configs)
    self.configs, self.size = list(configs), len(configs)
    self.pieces = [assemble(config) for config in configs]
    check_possible(configs[0], self.pieces[0].info)
    flat = [config_lib.flatten(config.to_dict()) for config in configs]
    self._values = {
      field: np.asarray([c[field] for c in flat], np.uint32 if field == "seed" else np.float32)
      for field in fields
    }
    # Members are independent: whole members go to devices, nothing is summed over them.
    count = max(d for d in range(1, jax.device_count() + 1) if self.size % d == 0)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((count,), ("members",), axis_types=auto, devices=jax.devices()[:count])
    self.by_member = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("members"))
    self.everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self.values = jax.device_put(self._values, self.by_member)

  def _member(self, values):
    """(config, model, optimizer, schedule) with traced numbers."""
    first = self.pieces[0]
    tree = _settled(self.configs[0])
    for field, value in values.items():
      *parents, leaf = field.split(".")
      functools.reduce(lambda section, name: section[name], parents, tree)[leaf] = value
    config = ConfigDict(tree, type_safe=False)  # a traced number has another type
    return config, *build(config, first.info, first.steps_per_epoch, first.num_steps)

  def create_state(self) -> TrainState:
    """Initial states, one behind the other along a leading axis."""

    def create(values):
      config, model, optimizer, _ = self._member(values)
      seed = values.get("seed", self.configs[0].seed)
      shape, decay = self.pieces[0].info.image_shape, config.optimizer.ema_decay
      return TrainState.create(model, optimizer, init_key(seed), shape, decay)

    return jax.jit(self._vmap(create, 1), out_shardings=self.by_member)(self.values)

  def make_update(self):
    """Jitted (state, values, resident, batch) -> (state, metrics), everything but `resident` by member."""

    def update(state, values, resident, batch):
      config, model, optimizer, schedule = self._member(values)
      return make_train_step(model, optimizer, schedule, config, self.pieces[0].info)(state, resident, batch)

    return jax.jit(self._vmap(update, 2, None, 0), donate_argnums=0, out_shardings=self.by_member)

  def make_evaluate(self):
    """Jitted (variables, values, resident, batch) -> dict of [members b]; all see the same batch."""

    def evaluate(variables, values, resident, batch):
      config, model, _, _ = self._member(values)
      return make_eval_step(model, config, self.pieces[0].info)(variables, resident, batch)

    return jax.jit(self._vmap(evaluate, 2, None, None), out_shardings=self.by_member)

  def _vmap(self, function, by_member: int, *others):
    # axis_size: the values are empty when all members are equal.
    return jax.vmap(function, in_axes=(*(0,) * by_member, *others), axis_size=self.size)

  def batches(self, num_train: int, start_step: int):
    """Batches {"index": int32 [members b]}; each member's are those of its single run."""
    size = self.configs[0].batch_size
    per_epoch = num_train // size
    epoch, orders = None, None
    for step in itertools.count(start_step):
      if step // per_epoch != epoch:
        epoch = step // per_epoch
        by_seed = {seed: data.epoch_order(seed, epoch, num_train) for seed in {c.seed for c in self.configs}}
        orders = np.stack([by_seed[config.seed] for config in self.configs])
      begin = step % per_epoch * size
      yield {"index": jax.device_put(orders[:, begin : begin + size], self.by_member)}

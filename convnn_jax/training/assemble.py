"""From a config to the pieces of a run, with every check that needs neither data nor a compiler."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from convnn_jax import data
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.training import sharding, summary
from convnn_jax.training.config import validate
from convnn_jax.training.losses import make_loss
from convnn_jax.training.optimizer import make_optimizer
from convnn_jax.training.state import TrainState

_INIT_STREAM = 2**31 - 1  # no step has this number, so initial parameters share no random numbers with steps


@dataclasses.dataclass(frozen=True)
class Pieces:
  """What a config stands for; nothing is computed or read yet.

  Attributes:
    info: facts about the data set.
    mesh: devices.
    model: the linen module.
    optimizer: optax transformation, whose update takes `value=loss`.
    schedule: step -> learning rate.
    steps_per_epoch: num_train // batch_size.
    num_steps: of the whole run.
    create_state: () -> TrainState, on the devices.
    state_shapes: TrainState of ShapeDtypeStruct with shardings.
  """

  info: data.DataInfo
  mesh: jax.sharding.Mesh
  model: nn.Module
  optimizer: optax.GradientTransformationExtraArgs
  schedule: optax.Schedule
  steps_per_epoch: int
  num_steps: int
  create_state: Callable[[], TrainState]
  state_shapes: TrainState

  @property
  def num_params(self) -> int:
    """Number of trained values."""
    return summary.num_params(self.state_shapes.params)

  def flops_per_image(self) -> int:
    """FLOPs of one image's forward pass, matrix products and convolutions, 2 per multiply-add."""
    shapes = {"params": self.state_shapes.params, **self.state_shapes.collections}
    image = jax.ShapeDtypeStruct((1, *self.info.image_shape), jnp.float32)
    return summary.flops(lambda v, x: self.model.apply(v, x, train=False), shapes, image)


def assemble(config: ConfigDict) -> Pieces:
  """Builds the pieces of a run.

  Raises:
    UserError: anything in the config that cannot work, before data are read or anything is compiled.
  """
  validate(config)
  mesh = sharding.make_mesh(config.mesh)
  sharding.check_batch(config.batch_size, config.optimizer.accumulate, mesh)
  info = data.info(config.data)
  steps_per_epoch = info.num_train // config.batch_size
  if not steps_per_epoch:
    raise UserError(
      f"config.batch_size={config.batch_size} must be at most {info.num_train}, the training images of {info.name}."
    )
  _check_pairs(config)
  if config.steps_per_call > 1 and info.storage != "memory":
    raise UserError(
      f"config.steps_per_call={config.steps_per_call} needs images that lie on the device; '{info.name}' is read from"
      " disk in batches. Use steps_per_call=1."
    )
  num_steps = steps_per_epoch * config.num_epochs
  make_loss(config.loss)  # its words are checked here
  model, optimizer, schedule = build(config, info, steps_per_epoch, num_steps)

  def init(key) -> TrainState:
    return TrainState.create(model, optimizer, key, info.image_shape, config.optimizer.ema_decay)

  key = init_key(config.seed)
  shapes = jax.eval_shape(init, key)  # modules check their fields here
  _check_training(model, shapes, info)
  layout = sharding.infer(shapes, mesh)
  return Pieces(
    info=info,
    mesh=mesh,
    model=model,
    optimizer=optimizer,
    schedule=schedule,
    steps_per_epoch=steps_per_epoch,
    num_steps=num_steps,
    create_state=lambda: jax.jit(init, out_shardings=layout)(key),
    state_shapes=sharding.with_sharding(shapes, layout),
  )


def build(config: ConfigDict, info: data.DataInfo, steps_per_epoch: int, num_steps: int):
  """(model, optimizer, schedule). Numbers of the config may be traced, see errors.is_known."""
  model = make_model(_plain(config.model), num_classes=info.num_classes, dtype=jnp.dtype(config.dtype))
  return model, *make_optimizer(config.optimizer, steps_per_epoch, num_steps, config.batch_size)


def init_key(seed):
  """The key of the initial parameters."""
  return jax.random.fold_in(jax.random.key(seed), _INIT_STREAM)


def _check_pairs(config) -> None:
  """Mixing exchanges images within pairs, so every part of a batch must have whole pairs."""
  part = config.batch_size // config.optimizer.accumulate
  if part % 2 and set(data.MIXING) & set(config.data.augment):
    raise UserError(
      f"mixup and cutmix mix pairs of images: config.batch_size={config.batch_size} in"
      f" optimizer.accumulate={config.optimizer.accumulate} parts gives {part} images, which must be an even number."
    )


def _check_training(model, shapes, info) -> None:
  """Traces a training pass too: some options are used in training only."""

  def forward(params, collections, images, key):
    rngs = dict.fromkeys(("dropout", "drop_path", "candidates"), key)
    variables = {"params": params, **collections}
    return model.apply(variables, images, train=True, rngs=rngs, mutable=list(collections))

  image = jax.ShapeDtypeStruct((2, *info.image_shape), jnp.float32)
  jax.eval_shape(forward, shapes.params, shapes.collections, image, jax.random.key(0))


def _plain(section: ConfigDict) -> dict[str, Any]:
  """A ConfigDict as nested dicts, the form in which linen modules take specs."""
  return section.to_dict()

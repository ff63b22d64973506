"""Whole training steps and inference of ViT-Tiny and Swin-T, and the same work in PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import swin_step
from benchmarks.cases import Figure, Group, Ratio
from benchmarks.measure import Compiled, Worker
from benchmarks.train_step import TrainStep
from convnn_jax import data
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble

SOFTMAX, CONVNN = "configs/vit_softmax.py", "configs/convnn_k9.py"
HEADS_3 = "--config.model.attention.num_heads=3"
# Tokens of the model -> batch size and overrides.
SIZES = {
  "197": (16, ()),
  "65": (32, ("--config.data.image_size=32", "--config.model.patch_size=4")),
}
NO_DROPOUT = ("--config.model.dropout_rate=0.0", "--config.model.attention.dropout_rate=0.0")


def neighbors(k: int) -> tuple[str, ...]:
  """ViT-Tiny's overrides for ConvNN attention with as many heads as softmax attention has."""
  return (HEADS_3, f"--config.model.attention.num_neighbors={k}")


def _overrides(size, extra):
  batch, overrides = SIZES[size]
  return [f"--config.batch_size={batch}", *overrides, *extra]


def train(path, size="197", *extra):
  """A training step of ViT-Tiny."""
  return functools.partial(TrainStep, path, _overrides(size, extra))


def infer(path, size="197", *extra):
  """Logits of a batch of float images."""

  def build():
    config = config_lib.load(path, _overrides(size, extra))
    pieces = assemble(config)
    state = pieces.create_state()
    variables = {"params": state.params, **state.collections}
    images = np.random.default_rng(0).standard_normal((config.batch_size, *pieces.info.image_shape))
    apply = lambda v, x: pieces.model.apply(v, x, train=False)
    return Compiled(apply, variables, jnp.asarray(images, jnp.float32))

  return build


def torch(*arguments):
  """The same in PyTorch, in a process of its own; see benchmarks/peers/worker.py."""
  return functools.partial(Worker, "benchmarks.peers.worker", *map(str, arguments))


def _augmentation():
  """Crop, flip and normalisation of 256 images of 32 x 32."""
  config = config_lib.load(CONVNN, ["--config.data.image_size=32", "--config.data.augment=('crop','flip')"])
  info = data.info(config.data)
  images = jnp.zeros((256, *info.source_shape), jnp.uint8)
  return Compiled(lambda x, key: data.augment(x, key, config.data, info), images, jax.random.key(0))


def _temp(name):
  return lambda contenders, least: contenders[name].temp_bytes


def _temp_figures():
  for key, name in {"convnn_k4": "convnn k=4", "convnn_k25": "convnn k=25", "softmax": "softmax"}.items():
    what = f"temporary memory of a training step, {name}"
    yield Figure("H", what, (name,), _temp(name), 450e6, "bytes", headline=key)


TRAIN_197 = Group(
  "train_197",
  ("cpu",),
  {
    "softmax": train(SOFTMAX),
    "softmax, no dropout": train(SOFTMAX, "197", *NO_DROPOUT),
    "convnn k=9": train(CONVNN, "197", *neighbors(9)),
    "convnn k=25": train(CONVNN, "197", *neighbors(25)),
    "convnn k=9, one head": train(CONVNN),
    "convnn k=25, one head": train(CONVNN, "197", "--config.model.attention.num_neighbors=25"),
    "torch softmax": torch("train", "softmax", "197", 16),
    "torch convnn k=9": torch("train", "convnn", "197", 16, 9),
    "torch convnn k=25": torch("train", "convnn", "197", 16, 25),
    "transformers ViT": torch("train", "transformers_vit", "197", 16),
  },
  (
    Ratio(
      "C5",
      "training step, convnn k=9 / softmax, ViT-Tiny, 197 tokens, batch 16, 3 heads",
      "convnn k=9",
      "softmax",
      1.15,
      headline="convnn_k9_train_vs_softmax",
    ),
    Ratio("C5b", "the same, k=25", "convnn k=25", "softmax", 1.4, headline="convnn_k25_train_vs_softmax"),
    Ratio("C5c", "the same, k=9 with one head, as published", "convnn k=9, one head", "softmax", 1.15),
    Ratio("C5d", "the same, k=25 with one head", "convnn k=25, one head", "softmax", 1.4),
    Ratio("C10", "training step, dropout on / off, softmax", "softmax", "softmax, no dropout", 1.08),
    Ratio(
      "C1",
      "training step, convnn k=9 / its literal PyTorch",
      "convnn k=9",
      "torch convnn k=9",
      0.8,
      headline="convnn_k9_train_vs_torch_literal",
    ),
    Ratio("C1b", "the same, k=25", "convnn k=25", "torch convnn k=25", 0.7),
    Ratio("C4", "training step, softmax / literal PyTorch", "softmax", "torch softmax", 1.05),
    Ratio(
      "C4c",
      "training step, softmax / transformers' ViT",
      "softmax",
      "transformers ViT",
      1.05,
      headline="softmax_train_vs_torch",
    ),
    Figure(
      "M4",
      "temporary memory of a training step, convnn k=9",
      ("convnn k=9",),
      _temp("convnn k=9"),
      450e6,
      "bytes",
      headline="convnn_k9",
    ),
    Figure(
      "M6",
      "new state that does not lie where the old one lay / the state",
      ("convnn k=9",),
      lambda contenders, least: contenders["convnn k=9"].copied_state,
      0.01,
    ),
  ),
  needs="torch",
  optional=("torch softmax", "torch convnn k=9", "torch convnn k=25", "transformers ViT"),
)

# Compiled and not run: only their temporary memory is asked for.
MEMORY = Group(
  "memory",
  (),
  {
    "convnn k=4": train(CONVNN, "197", *neighbors(4)),
    "convnn k=25": train(CONVNN, "197", *neighbors(25)),
    "softmax": train(SOFTMAX),
  },
  tuple(_temp_figures()),
)

INFER_197 = Group(
  "infer_197",
  ("cpu",),
  {
    "softmax": infer(SOFTMAX),
    "convnn k=9": infer(CONVNN, "197", *neighbors(9)),
    "torch softmax": torch("infer", "softmax", "197", 16),
    "torch convnn k=9": torch("infer", "convnn", "197", 16, 9),
  },
  (
    Ratio(
      "C2",
      "inference, convnn k=9 / its literal PyTorch, 197 tokens, batch 16",
      "convnn k=9",
      "torch convnn k=9",
      0.7,
      headline="convnn_k9_inference_vs_torch_literal",
    ),
    Ratio("C4b", "inference, softmax / literal PyTorch", "softmax", "torch softmax", 0.95),
    Ratio("C2b", "inference, convnn k=9 / softmax", "convnn k=9", "softmax"),
  ),
  needs="torch",
  optional=("torch softmax", "torch convnn k=9"),
)

STEPS_65 = Group(
  "steps_65",
  ("cpu",),
  {
    "softmax": train(SOFTMAX, "65"),
    "convnn k=9": train(CONVNN, "65", *neighbors(9)),
    "augmentation of 256": _augmentation,
    "torch convnn k=9": torch("train", "convnn", "65", 32, 9),
  },
  (
    Ratio(
      "C3",
      "training step, convnn k=9 / its literal PyTorch, 65 tokens, batch 32",
      "convnn k=9",
      "torch convnn k=9",
      0.8,
    ),
    Ratio("C5e", "training step, convnn k=9 / softmax, 65 tokens, batch 32", "convnn k=9", "softmax", 1.15),
    Ratio(
      "C12",
      "crop, flip and normalisation of 256 images / softmax training step of as many",
      "augmentation of 256",
      "softmax",
      0.01,
      scale=8,
    ),
  ),
  needs="torch",
  optional=("torch convnn k=9",),
)

# Apart from the training steps, beside which it would have a fifth of the rounds.
INFER_65 = Group(
  "infer_65",
  ("cpu",),
  {
    "convnn k=9": infer(CONVNN, "65", *neighbors(9)),
    "torch convnn k=9": torch("infer", "convnn", "65", 32, 9),
  },
  (
    Ratio(
      "C3b",
      "inference, convnn k=9 / its literal PyTorch, 65 tokens, batch 32",
      "convnn k=9",
      "torch convnn k=9",
      0.65,
    ),
  ),
  needs="torch",
  optional=("torch convnn k=9",),
)

SWIN = Group(
  "swin",
  (),
  {
    "swin_t": functools.partial(swin_step.Ours, "swin_tiny", 8),
    "transformers Swin": functools.partial(swin_step.Peer, "swin_tiny", 8),
  },
  (
    Ratio(
      "C15",
      "training step, Swin-T / transformers' Swin-T, batch 8",
      "swin_t",
      "transformers Swin",
      1.0,
      headline="swin_t_train_vs_torch",
    ),
  ),
  needs="torch",
  optional=("transformers Swin",),
)

GROUPS = (TRAIN_197, INFER_197, STEPS_65, INFER_65, MEMORY, SWIN)

"""For accelerators: training steps of several attentions, inference, and each way to do neighbour attention."""

import functools

import jax
import jax.numpy as jnp

from benchmarks import ops
from benchmarks.cases import Figure, Group, Ratio
from benchmarks.measure import gradients
from benchmarks.steps import CONVNN, HEADS_3, SOFTMAX, infer, torch, train
from convnn_jax.ops.neighbor_attention import neighbor_attention

BATCH = 1024
LOW = ("--config.dtype=bfloat16", f"--config.batch_size={BATCH}")
SUITES = ("gpu", "tpu")
ATTENTIONS = {
  "softmax": (SOFTMAX,),
  "convnn k=9": (CONVNN, HEADS_3),
  "convnn k=25": (CONVNN, HEADS_3, "--config.model.attention.num_neighbors=25"),
  "convnn k=9, onehot": (CONVNN, HEADS_3, "--config.model.attention.implementation=onehot"),
  "convnn k=9, pallas": (CONVNN, HEADS_3, "--config.model.attention.implementation=pallas"),
  "knn": ("configs/knn.py",),
  "local": ("configs/local.py",),
  "neighborhood": ("configs/neighborhood.py",),
}


def _per_second(name, batch):
  return lambda contenders, least: batch / least[name]


def _rates(names, size, batch, work):
  for name in names:
    what = f"{work}, {name}, {size} tokens, batch {batch}, bfloat16"
    yield Figure("G1", f"{what}: images per second", (name,), _per_second(name, batch), unit="images/s")
    yield Figure(
      "G6",
      f"{what}: temporary memory",
      (name,),
      lambda contenders, least, name=name: contenders[name].temp_bytes,
      unit="bytes",
    )


def _train_group(size):
  contenders = {name: train(path, size, *LOW, *extra) for name, (path, *extra) in ATTENTIONS.items()}
  contenders["torch softmax"] = torch("train", "softmax", size, BATCH)
  contenders["torch convnn k=9"] = torch("train", "convnn", size, BATCH, 9)
  contenders["transformers ViT"] = torch("train", "transformers_vit", size, BATCH)
  peers = ("torch softmax", "torch convnn k=9", "transformers ViT")
  ratios = (
    Ratio("G3", f"training step, convnn k=9 / softmax, {size} tokens", "convnn k=9", "softmax", 2.5),
    Ratio(
      "G3b",
      f"training step, convnn k=9 in the kernel / softmax, {size} tokens",
      "convnn k=9, pallas",
      "softmax",
      1.4,
    ),
    Ratio(
      "G1b",
      f"training step, softmax / transformers' ViT, compiled, {size} tokens",
      "softmax",
      "transformers ViT",
      1.0,
    ),
    Ratio(
      "G4",
      f"training step, convnn k=9 / literal PyTorch, compiled, {size} tokens",
      "convnn k=9",
      "torch convnn k=9",
      1 / 3,
    ),
  )
  cases = (*ratios, *_rates(ATTENTIONS, size, BATCH, "training"))
  return Group(f"device_train_{size}", SUITES, contenders, cases, needs="torch", optional=peers)


def _infer_group(size):
  names = ("softmax", "convnn k=9")
  contenders = {name: infer(ATTENTIONS[name][0], size, *LOW, *ATTENTIONS[name][1:]) for name in names}
  contenders["torch softmax"] = torch("infer", "softmax", size, BATCH)
  ratio = Ratio(
    "G2", f"inference, softmax / literal PyTorch, compiled, {size} tokens", "softmax", "torch softmax", 1.0
  )
  cases = (ratio, *_rates(names, size, BATCH, "inference"))
  return Group(f"device_infer_{size}", SUITES, contenders, cases, needs="torch", optional=("torch softmax",))


def _kernel(query, key, value, kernel):
  """As ops.convnn, in one kernel."""
  by_head = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
  return jnp.swapaxes(neighbor_attention(*by_head, kernel, scale=query.shape[-1] ** -0.5)[0], 1, 2)


WAYS = {
  "passes, gather": functools.partial(ops.convnn, implementation="gather", method="passes"),
  "lanes, gather": functools.partial(ops.convnn, implementation="gather", method="lanes"),
  "library, gather": functools.partial(ops.convnn, implementation="gather", method="library"),
  "passes, onehot": functools.partial(ops.convnn, implementation="onehot", method="passes"),
  "pallas": _kernel,
}


def _way(function, n, d, k):
  def build():
    shape = (max(1, 4096 // n), n, 3, d)
    tokens = [jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16) for seed in (1, 2, 3)]
    kernel = () if function is ops.dense else (jnp.ones((k, d)),)
    return gradients(function, *tokens, *kernel)

  return build


def _ways_group(n, d, k):
  ways = {"dense": ops.dense, **WAYS}
  contenders = {name: _way(function, n, d, k) for name, function in ways.items()}
  cases = tuple(
    Ratio("G5", f"{name} / softmax attention, n={n}, d={d}, k={k}, bfloat16", name, "dense") for name in WAYS
  )
  return Group(f"ways_{n}_{d}_{k}", SUITES, contenders, cases)


GROUPS = (
  *(_train_group(size) for size in ("197", "65")),
  *(_infer_group(size) for size in ("197", "65")),
  *(_ways_group(n, d, k) for n in (65, 197, 785) for d in (32, 64, 192) for k in (4, 9, 25)),
)

"""How the reference cases of each family run here. A new family = one function and one line in LOADERS."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from golden_case import Loaded, load_module, params_of
from golden_zoo import load_zoo

from configs import base
from convnn_jax.attention import TokenGrid, make_attention
from convnn_jax.convert import convnn, sot_cct, swin
from convnn_jax.convert.options import NotOffered
from convnn_jax.convert.rules import to_flax
from convnn_jax.errors import UserError
from convnn_jax.layers.patch_merging import PatchMerging
from convnn_jax.layers.pos_embed import resize_positions
from convnn_jax.models.swin_block import SwinBlock
from convnn_jax.ops.resize import resize_table
from convnn_jax.ops.self_transport import self_transport
from convnn_jax.ops.windows import pair
from convnn_jax.training.schedule import make_schedule


def load_convnn(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of the published ConvNN attention code."""
  drawn = arrays.get("aux:rand_idx")  # the draw that was made there, or one of each layer
  if drawn is not None and config.get("num_samples", 0) < 0:  # all but so many
    config = {**config, "num_samples": drawn.shape[-1]}
  made = convnn.conversion(config)
  collections = {}
  if drawn is not None:
    attention = made.spec if made.kind == "attention" else made.spec["attention"]
    own = lambda index: {"index": index.astype(np.int32)}
    of = lambda index: {"first": own(index)} if attention["name"] == "branching" else own(index)
    layers = np.broadcast_to(drawn, (made.spec.get("depth", 1), drawn.shape[-1]))
    within = {
      "attention": lambda: of(layers[0]),
      "block": lambda: {"attention": of(layers[0])},
      "model": lambda: {f"block_{i}": {"attention": of(index)} for i, index in enumerate(layers)},
    }
    collections = {"candidates": within[made.kind]()}
  loaded = load_module(made, config, arrays, collections=collections)
  return loaded._replace(input_gradients=made.kind != "model")


def load_swin(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of Swin V1, V2, SwinMLP and of the fork on redundancy."""
  made = swin.conversion(config)
  if made.kind == "model":
    return load_module(made, config, arrays)
  if made.kind == "resize":
    # Tables of squares: their sides follow from their lengths.
    old, new = ((round(arrays[name].shape[-2] ** 0.5),) * 2 for name in ("x", "y"))
    resize = lambda params, x: resize_table(x.reshape(-1, x.shape[-1]), old, new).reshape(arrays["y"].shape)
    return Loaded(resize, {}, made.rules)
  if made.kind == "attention":
    module = make_attention(made.spec)
    options = dict(train=False, grid=TokenGrid(*pair("window_size", config["window_size"])))
    shape = arrays["x"].shape
  else:
    module = PatchMerging(**made.spec) if made.kind == "merging" else SwinBlock(**made.spec)
    options = {} if made.kind == "merging" else dict(train=False)
    shape = (len(arrays["x"]), *pair("input_resolution", config["input_resolution"]), arrays["x"].shape[-1])
  init = lambda x: module.init(jax.random.key(0), x.reshape(shape), **options)["params"]
  params = to_flax(params_of(arrays), made.rules, jax.eval_shape(init, arrays["x"]), ignore=made.ignore)

  def run(params, x, mask=None):
    bias = {} if mask is None else dict(bias=jnp.tile(mask, (len(x) // len(mask), 1, 1))[:, None])
    out = module.apply({"params": params}, x.reshape(shape), **options, **bias)
    return out.reshape(*arrays["y"].shape)

  return Loaded(run, params, made.rules, constants=("x2",))


def load_sot_cct(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of self-optimal transport and the compact transformers."""
  made = sot_cct.conversion(config)
  run = {
    "transport": lambda spec: lambda params, *inputs: _transport(inputs, spec),
    "resize": lambda spec: lambda params, table: resize_positions(table[0], **spec)[None],
    "schedule": lambda spec: lambda params: _learning_rates(**spec),
  }
  if made.kind in run:
    return Loaded(run[made.kind](made.spec), {}, made.rules)
  return load_module(made, config, arrays)


def _learning_rates(num_epochs, optimizer):
  """One for each epoch: [num_epochs]."""
  config = base.get_config().optimizer
  config.update(optimizer)
  return make_schedule(config, 1, num_epochs)(jnp.arange(num_epochs))


def _transport(inputs, spec):
  """[n d] or [b n d], one input or two -> the same with [n n]."""
  single = [x if x.ndim == 3 else x[None] for x in inputs]
  result, _ = self_transport(*(x[:, :, None] for x in single), **spec)
  return result[:, 0] if inputs[0].ndim == 3 else result[0, 0]


LOADERS = {
  "convnn": load_convnn,
  "swin": load_swin,
  "sot_cct": load_sot_cct,
  "zoo": load_zoo,
}


def load(path, config, arrays) -> Loaded:
  """Loads a case by its family: a folder of its path, or else the only family that takes its options.

  Raises:
    UserError: no family takes the case.
  """
  folders = [folder for folder in reversed(path.parts[:-1]) if folder in LOADERS]
  if folders:
    return LOADERS[folders[0]](config, arrays)
  reasons = []
  for family, loader in LOADERS.items():
    try:
      return loader(config, arrays)
    except NotOffered:
      raise
    except UserError as error:
      reasons.append(f"{family}: {error}")
  raise UserError(f"No family takes the case {path.name}. " + " ".join(reasons))

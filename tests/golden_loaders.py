"""How the reference cases of each family run here. A new family = one function and one line in LOADERS."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from convnn_jax.attention import make_attention
from convnn_jax.attention.local import local_scores, pad_tokens
from convnn_jax.convert import convnn, sot_cct, zoo
from convnn_jax.convert.options import NotOffered
from convnn_jax.convert.rules import Rule, to_flax
from convnn_jax.errors import UserError
from convnn_jax.layers.conv_tokenizer import ConvTokenizer
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pooling import SequencePooling
from convnn_jax.layers.pos_embed import resize_positions
from convnn_jax.models import make_model
from convnn_jax.models.cct import CompactBlock
from convnn_jax.models.encoder import EncoderBlock
from convnn_jax.ops.masks import hidden_bias
from convnn_jax.ops.self_transport import self_transport
from convnn_jax.training.schedule import make_schedule


class Loaded(NamedTuple):
  """A reference case, ready to run.

  Attributes:
    run: (our params, *inputs in the source's layout) -> output in the source's layout.
    params: ours, from the case's `param:*`.
    rules: table that brings gradients back to the source's names and layouts.
    input_gradients: whether the family stores `grad:x` for this module.
  """

  run: Callable[..., Any]
  params: Any
  rules: Sequence[Rule]
  input_gradients: bool = True


class NormedAttention(nn.Module):
  """A published attention with its LayerNorm inside."""

  spec: Mapping[str, Any]

  @nn.compact
  def __call__(self, x, *, train):
    return make_attention(self.spec, name="attention")(layer_norm("norm")(x), train=train)


def load_convnn(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of the published ConvNN attention code."""
  made = convnn.conversion(config)
  collections = {}
  if "aux:rand_idx" in arrays:  # the draw that was made there
    drawn = {"index": arrays["aux:rand_idx"].astype(np.int32)}
    attention = made.spec if made.kind == "attention" else made.spec["attention"]
    drawn = {"first": drawn} if attention["name"] == "branching" else drawn
    within = {
      "attention": lambda: drawn,
      "block": lambda: {"attention": drawn},
      "model": lambda: {f"block_{layer}": {"attention": drawn} for layer in range(made.spec["depth"])},
    }
    collections = {"candidates": within[made.kind]()}
  loaded = _load_module(made, config, arrays, collections)
  return loaded._replace(input_gradients=made.kind != "model")


def load_zoo(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Cases of the comparison attentions."""
  options, bias = {}, None
  if "aux:key_mask" in arrays:
    options = {"key_mask": "given in aux:key_mask"}
    bias = hidden_bias(arrays["aux:key_mask"], arrays["x"].dtype)[:, None, None]
  made = zoo.conversion({**config, **options})
  if made.kind != "scores":
    return _load_module(made, config, arrays, bias=bias)

  def core(params, query, key, value):
    del params
    query, key, value = (jnp.swapaxes(y, 1, 2) for y in (query, key, value))
    fields = made.spec | {"scale": made.spec["scale"] or query.shape[-1] ** -0.5}
    weights = jax.nn.softmax(local_scores(query, key, bias, **fields), axis=-1)
    return jnp.einsum("bhnm,bmhd->bhnd", weights, pad_tokens(value, weights.shape[-1]))

  state = {name.removeprefix("param:"): a for name, a in arrays.items() if name.startswith("param:")}
  return Loaded(core, to_flax(state, made.rules, {}, ignore=made.ignore), made.rules)


def _load_module(made, config, arrays, collections=None, bias=None) -> Loaded:
  kind, spec, rules, ignore = made
  module = {
    "attention": lambda: make_attention(spec),
    "compact_block": lambda: CompactBlock(**spec),
    "pooling": SequencePooling,
    "tokenizer": lambda: ConvTokenizer(**spec),
    "normed_attention": lambda: NormedAttention(spec),
    "block": lambda: EncoderBlock(**spec),
    "model": lambda: make_model(spec, num_classes=config["num_classes"]),
  }[kind]()
  enter = lambda x: x.transpose(0, 2, 3, 1) if kind in ("model", "tokenizer") else x
  leave = lambda y: y.reshape(y.shape[0], -1, y.shape[-1]) if kind == "tokenizer" else y
  options = {} if kind in ("tokenizer", "pooling") else {"train": False}
  options |= {} if bias is None else {"bias": bias}
  init = lambda x: module.init(jax.random.key(0), enter(x), **options)["params"]
  state = {name.removeprefix("param:"): a for name, a in arrays.items() if name.startswith("param:")}
  params = to_flax(state, rules, jax.eval_shape(init, arrays["x"]), ignore=ignore)
  variables = lambda params: {"params": params, **(collections or {})}
  run = lambda params, x: leave(module.apply(variables(params), enter(x), **options))
  return Loaded(run, params, rules)


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
  return _load_module(made, config, arrays)


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

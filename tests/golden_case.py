"""What a loader of reference cases returns, and the way from a Conversion to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from convnn_jax.attention import make_attention
from convnn_jax.attention.softmax import MultiHeadAttention
from convnn_jax.convert.rules import Rule, to_flax
from convnn_jax.layers.conv_tokenizer import ConvTokenizer
from convnn_jax.layers.mlp import Mlp
from convnn_jax.layers.norm import layer_norm
from convnn_jax.layers.pooling import SequencePooling
from convnn_jax.models import make_model, transformer
from convnn_jax.models.cct import CompactBlock
from convnn_jax.models.encoder import EncoderBlock


class Loaded(NamedTuple):
  """A reference case, ready to run.

  Attributes:
    run: (our params, *inputs in the source's layout) -> output in the source's layout.
    params: ours, from the case's `param:*`.
    rules: table that brings gradients back to the source's names and layouts.
    input_gradients: whether the family stores `grad:x` for this module.
    constants: inputs without a stored gradient, such as masks.
    named: output -> {name in the case: array}, for cases with more than `y`.
  """

  run: Callable[..., Any]
  params: Any
  rules: Sequence[Rule]
  input_gradients: bool = True
  constants: Sequence[str] = ()
  named: Callable[[Any], dict[str, Any]] = lambda y: {"y": y}


class Normed(nn.Module):
  """A published attention or MLP with its LayerNorm inside."""

  make_inner: Callable[[], nn.Module]

  @nn.compact
  def __call__(self, x, *, train):
    return self.make_inner()(layer_norm("norm")(x), train=train)


def params_of(arrays):
  """The case's state dict."""
  return {name.removeprefix("param:"): a for name, a in arrays.items() if name.startswith("param:")}


def module_of(made, config) -> nn.Module:
  """The module that a Conversion describes."""
  spec = made.spec
  return {
    "attention": lambda: make_attention(spec),
    "normed_attention": lambda: Normed(lambda: make_attention(spec, name="attention")),
    "compact_block": lambda: CompactBlock(**spec),
    "pooling": SequencePooling,
    "tokenizer": lambda: ConvTokenizer(**spec),
    "normed_mlp": lambda: Normed(lambda: Mlp(**spec, name="mlp")),
    "block": lambda: EncoderBlock(**spec),
    "model": lambda: make_model(spec, num_classes=config["num_classes"]),
    "multi_head": lambda: MultiHeadAttention(**spec),
    "encoder_layer": lambda: transformer.EncoderLayer(**spec),
    "decoder_layer": lambda: transformer.DecoderLayer(**spec),
    "encoder": lambda: transformer.Encoder(**spec),
    "decoder": lambda: transformer.Decoder(**spec),
    "transformer": lambda: transformer.Transformer(**spec),
  }[made.kind]()


def load_module(
  made, config: Mapping[str, Any], arrays, *, collections=None, bias=None, leave=lambda y: y
) -> Loaded:
  """A case of a module; `leave` brings its output into the source's form."""
  module = module_of(made, config)
  enter = lambda x: x.transpose(0, 2, 3, 1) if made.kind in ("model", "tokenizer") else x
  if made.kind == "tokenizer":
    leave = lambda y: y.reshape(y.shape[0], -1, y.shape[-1])
  inputs = [arrays[name] for name in ("x", "x2", "x3") if name in arrays]
  options = {} if made.kind in ("tokenizer", "pooling") else {"train": False}
  options |= {} if bias is None else {"bias": bias}
  init = lambda *inputs: module.init(jax.random.key(0), *map(enter, inputs), **options)["params"]
  params = to_flax(params_of(arrays), made.rules, jax.eval_shape(init, *inputs), ignore=made.ignore)
  variables = lambda params: {"params": params, **(collections or {})}
  run = lambda params, *x: leave(module.apply(variables(params), *map(enter, x), **options))
  return Loaded(run, params, made.rules)

"""Options and checkpoints of fkodom/transformer-from-scratch -> our specs and parameters."""

from convnn_jax.convert import layers
from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule
from convnn_jax.convert.zoo_words import PUBLISHED
from convnn_jax.errors import UserError
from convnn_jax.models.transformer import softmax_spec


def _function(options) -> Conversion:
  return Conversion("function", dict(name=options["module"]), ())


def _positions(options) -> Conversion:
  kind = PUBLISHED.word(options, "variant", "upstream")
  spec = dict(
    name="positions",
    kind=kind,
    num_positions=required(options, "seq_len"),
    width=required(options, "dim_model"),
  )
  return Conversion("function", spec, ())


def _heads(source: str = "", target: str = "") -> tuple[Rule, ...]:
  """One linear layer per head there, one kernel with a head axis here."""
  rules = []
  for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
    rules += [
      Rule(f"{source}heads.{{head}}.{letter}.weight", f"{target}{name}/kernel[1:{{head}}]", "linear"),
      Rule(f"{source}heads.{{head}}.{letter}.bias", f"{target}{name}/bias[0:{{head}}]"),
    ]
  return (*rules, *layers.prefixed(source, target, layers.merge("linear")))


def _multi_head(options) -> Conversion:
  d = required(options, "dim_q")
  if options.get("dim_k", d) != d:
    raise UserError(f"dim_q={d} and dim_k={options['dim_k']} must be equal: queries and keys are multiplied.")
  spec = softmax_spec(required(options, "num_heads"), head_dim=d)
  del spec["name"]
  return Conversion("multi_head", spec, _heads())


def _layer_spec(options):
  """Heads of max(width // heads, 1) channels, whether the number of heads divides the width or not."""
  heads, width = required(options, "num_heads"), required(options, "dim_model")
  attention = softmax_spec(heads, head_dim=max(width // heads, 1))
  return dict(attention=attention, mlp_dim=required(options, "dim_feedforward"))


def _encoder_rules(source="", target=""):
  return layers.prefixed(
    source,
    target,
    (
      *_heads("attention.sublayer.", "attention/"),
      *layers.norm("attention.norm", "norm1"),
      *_feed_forward("norm2"),
    ),
  )


def _decoder_rules(source="", target=""):
  return layers.prefixed(
    source,
    target,
    (
      *_heads("attention_1.sublayer.", "attention/"),
      *layers.norm("attention_1.norm", "norm1"),
      *_heads("attention_2.sublayer.", "cross_attention/"),
      *layers.norm("attention_2.norm", "norm2"),
      *_feed_forward("norm3"),
    ),
  )


def _feed_forward(norm):
  return (
    *layers.linear("feed_forward.sublayer.0", "mlp/hidden_layer"),
    *layers.linear("feed_forward.sublayer.2", "mlp/out"),
    *layers.norm("feed_forward.norm", norm),
  )


def _stack_spec(options):
  return _layer_spec(options) | dict(position_embedding=PUBLISHED.word(options, "positional", "upstream"))


_DECODER = dict(mask="none", output="probs")  # as published


def _encoder_stack(source, target):
  return _encoder_rules(f"{source}layers.{{layer}}.", f"{target}layer_{{layer}}/")


def _decoder_stack(source, target):
  head = layers.prefixed(source, target, layers.linear("linear", "head"))
  return (*_decoder_rules(f"{source}layers.{{layer}}.", f"{target}layer_{{layer}}/"), *head)


def _encoder(options) -> Conversion:
  spec = _stack_spec(options) | dict(depth=required(options, "num_layers"))
  return Conversion("encoder", spec, _encoder_stack("", ""))


def _decoder(options) -> Conversion:
  spec = _stack_spec(options) | dict(depth=required(options, "num_layers")) | _DECODER
  return Conversion("decoder", spec, _decoder_stack("", ""))


def _transformer(options) -> Conversion:
  depths = {f"{part}_depth": required(options, f"num_{part}_layers") for part in ("encoder", "decoder")}
  rules = (*_encoder_stack("encoder.", "encoder/"), *_decoder_stack("decoder.", "decoder/"))
  return Conversion("transformer", _stack_spec(options) | depths | _DECODER, rules)


CONVERSIONS = {
  "scaled_dot_product_attention": _function,
  "position_encoding": _positions,
  "MultiHeadAttention": _multi_head,
  "TransformerEncoderLayer": lambda options: Conversion(
    "encoder_layer", _layer_spec(options), _encoder_rules()
  ),
  "TransformerDecoderLayer": lambda options: Conversion(
    "decoder_layer", _layer_spec(options), _decoder_rules()
  ),
  "TransformerEncoder": _encoder,
  "TransformerDecoder": _decoder,
  "Transformer": _transformer,
}

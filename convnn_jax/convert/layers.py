"""Rules of the layers that several published modules share."""

from typing import Any

from convnn_jax.convert.options import Conversion, required
from convnn_jax.convert.rules import Rule


def linear(source: str, target: str) -> tuple[Rule, ...]:
  """A linear layer, with or without bias."""
  return Rule(f"{source}.weight", f"{target}/kernel", "linear"), Rule(f"{source}.bias", f"{target}/bias")


def norm(source: str, target: str) -> tuple[Rule, ...]:
  """A layer normalisation."""
  return Rule(f"{source}.weight", f"{target}/scale"), Rule(f"{source}.bias", f"{target}/bias")


def projections(query: str, key: str, value: str, out: str) -> tuple[Rule, ...]:
  """Projections into heads and back: the source's names of our query, key, value and out."""
  into_heads = [(query, "query"), (key, "key"), (value, "value")]
  weights = [Rule(f"{source}.weight", f"{target}/kernel", "split_linear") for source, target in into_heads]
  biases = [Rule(f"{source}.bias", f"{target}/bias", "split_bias") for source, target in into_heads]
  return (*weights, *biases, *merge(out))


def merge(source: str) -> tuple[Rule, ...]:
  """The projection of heads side by side."""
  return Rule(f"{source}.weight", "out/kernel", "merge_linear"), Rule(f"{source}.bias", "out/bias")


def fused_projections(qkv: str, out: str) -> tuple[Rule, ...]:
  """The same where one layer holds query, key and value below one another."""
  targets = ("query", "key", "value")
  weights = [Rule(f"{qkv}.weight[{i}/3]", f"{t}/kernel", "split_linear") for i, t in enumerate(targets)]
  biases = [Rule(f"{qkv}.bias[{i}/3]", f"{t}/bias", "split_bias") for i, t in enumerate(targets)]
  return (*weights, *biases, *merge(out))


def prefixed(source: str, target: str, rules) -> tuple[Rule, ...]:
  """Rules of a module inside another."""
  return tuple(Rule(source + rule.source, target + rule.target, rule.layout) for rule in rules)


def encoder_block(options, attention: Conversion) -> Conversion:
  """The published transformer block around an attention."""
  rules = prefixed("attention.", "attention/", attention.rules)
  rules += (*norm("norm1", "norm1"), *norm("norm2", "norm2"))
  rules += (*linear("mlp.0", "mlp/hidden_layer"), *linear("mlp.3", "mlp/out"))
  spec: dict[str, Any] = dict(attention=attention.spec, mlp_dim=required(options, "d_mlp"))
  return Conversion("block", spec, rules, tuple(f"attention.{name}" for name in attention.ignore))


def vision_transformer(options, block: Conversion) -> Conversion:
  """The published ViT around its block."""
  spec = dict(
    name="vit",
    patch_size=required(options, "patch_size"),
    width=required(options, "d_hidden"),
    depth=required(options, "num_layers"),
    **block.spec,
  )
  rules = prefixed("transformer_encoder.{layer}.", "block_{layer}/", block.rules)
  rules += (
    Rule("patch_embedding.linear_projection.weight", "patch_embedding/projection/kernel", "conv2d"),
    Rule("patch_embedding.linear_projection.bias", "patch_embedding/projection/bias"),
    *norm("patch_embedding.norm", "patch_embedding/norm"),
    Rule("positional_encoding.cls_tokens", "class_token"),
    *linear("classifier", "head"),
  )
  # The sine table is a buffer there and a constant here.
  ignore = ("positional_encoding.pe", *(f"transformer_encoder.{{layer}}.{name}" for name in block.ignore))
  return Conversion("model", spec, rules, ignore)

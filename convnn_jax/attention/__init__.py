"""Attention variants, selected by name. Adding one = one file, one line here, one config, one test."""

from collections.abc import Mapping

from convnn_jax import registry
from convnn_jax.attention.base import Attention, TokenGrid

__all__ = ["ATTENTIONS", "Attention", "TokenGrid", "attention_class", "make_attention", "settled"]

ATTENTIONS = {
  "branching": "branching:BranchingAttention",
  "conv1d": "conv1d:Conv1dAttention",
  "convnn": "convnn:ConvNNAttention",
  "knn": "knn:KnnAttention",
  "local": "local:LocalAttention",
  "neighborhood": "neighborhood:NeighborhoodAttention",
  "reattention": "reattention:ReAttention",
  "softmax": "softmax:SoftmaxAttention",
  "sot": "sot:SotAttention",
  "sparse": "sparse:SparseAttention",
  "spatial_mlp": "spatial_mlp:SpatialMlp",
  "window": "window:WindowAttention",
}


def attention_class(name: str):
  """The module class of the variant `name`; UserError with the nearest name if there is none."""
  return registry.member("attention", ATTENTIONS, __name__, name)


def make_attention(spec: Mapping, *, dtype=None, name: str | None = None):
  """Builds the attention of a spec such as dict(name="convnn", num_heads=1, num_neighbors=9).

  Args:
    spec: `name` and that variant's own fields.
    dtype: compute dtype; None = that of inputs and parameters.
    name: Flax name of the module.

  Raises:
    UserError: unknown name or field.
  """
  return registry.build("attention", ATTENTIONS, __name__, spec, name, dtype=dtype)


def settled(spec: Mapping) -> dict:
  """The spec, and those inside it, with every choice made that depends on its numbers.

  A program for several values of a number cannot make such a choice. A variant that has one has a static method
  `settled` of its own spec.
  """
  spec = {field: settled(value) if isinstance(value, Mapping) else value for field, value in spec.items()}
  settle = getattr(attention_class(spec["name"]), "settled", dict) if spec.get("name") in ATTENTIONS else dict
  return settle(spec)

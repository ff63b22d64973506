"""Backbones, selected by name. Adding one = one file, one line here, one config, one test."""

from collections.abc import Mapping

from convnn_jax import registry

__all__ = ["MODELS", "make_model", "model_class"]

MODELS = {
  "cct": "cct:CCT",
  "cnn": "cnn:CNN",
  "hybrid": "hybrid:Hybrid",
  "swin": "swin:Swin",
  "vit": "vit:ViT",
}


def model_class(name: str):
  """The module class of the backbone `name`; UserError with the nearest name if there is none."""
  return registry.member("model", MODELS, __name__, name)


def make_model(spec: Mapping, *, num_classes: int, dtype=None):
  """Builds the backbone of a spec such as dict(name="vit", width=192, attention=dict(name="softmax")).

  Raises:
    UserError: unknown name or field.
  """
  return registry.build("model", MODELS, __name__, spec, num_classes=num_classes, dtype=dtype)

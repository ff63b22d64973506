"""The four models of the attention study at its three sizes, as specs for `make_model`.

Source: holestine/Attention, experiment three: the CNN of PyTorch's MNIST example, vit-pytorch's ViT and DeepViT, and
a hybrid of both. All transformers there see four patches and a class token.
"""

from typing import Any

from convnn_jax.errors import UserError, choose

SIZES = {
  "small": dict(width=128, depth=6, num_heads=4, mlp_dim=256),
  "base12": dict(width=768, depth=12, num_heads=12, mlp_dim=3072),
  "base6": dict(width=768, depth=6, num_heads=12, mlp_dim=3072),
}
POSITIONS = ("tokens", "published")


def study_spec(model: str, size: str, image_size: int, *, positions: str = "tokens") -> dict[str, Any]:
  """The spec of a model of the study.

  Args:
    model: key of MODELS: cnn (which has one size), vit, deepvit or hybrid.
    size: key of SIZES.
    image_size: side of the images in pixels; 28 and 32 in the study.
    positions: rows of the position table: "tokens" (one per token), or "published": there the number of pixels was
      passed as the side of the image, so the table is hundreds of times longer than the sequence.

  Raises:
    UserError: unknown word, or an image too small to be cut in four.
  """
  make = choose("model of the study", model, MODELS)
  size = dict(choose("size", size, SIZES))
  choose("positions", positions, dict.fromkeys(POSITIONS))
  return make(size, image_size, positions == "published")


def _cnn(size, image_size, published):
  del size, image_size, published
  return dict(
    name="cnn", stem_channels=(32, 64), hidden_dim=128, stem_dropout_rate=0.25, hidden_dropout_rate=0.5
  )


def _vit(size, side, published):
  patch_size = side // 2
  if patch_size < 1:
    raise UserError(
      f"Images or feature maps of {side} pixels a side cannot be cut in four; use larger images."
    )
  num_heads = size.pop("num_heads")
  return dict(
    name="vit",
    patch_size=patch_size,
    patch_norm="both",
    **size,
    dropout_rate=0.1,
    embedding_dropout_rate=0.1,
    position_embedding="learned",
    position_std=1.0,
    num_positions=published_positions(side, patch_size) if published else 0,
    pooling="cls",
    final_norm="layer_norm",
    attention=dict(name="softmax", num_heads=num_heads, head_dim=64, dropout_rate=0.1, out_bias=True),
  )


def _deepvit(size, side, published):
  spec = _vit(size, side, published)
  spec["attention"]["name"] = "reattention"
  return spec | dict(final_norm="after_pooling")


def _hybrid(size, image_size, published):
  map_side = (image_size - 4) // 2
  return _vit(size, map_side, published) | dict(name="hybrid", patch_size=0, stem_channels=(32, 64))


MODELS = {"cnn": _cnn, "vit": _vit, "deepvit": _deepvit, "hybrid": _hybrid}


def published_positions(side: int, patch_size: int) -> int:
  """Rows of the table when side * side is taken for the side: 3137 instead of 5 for 28 pixels and patches of 14."""
  return (side * side // patch_size) ** 2 + 1

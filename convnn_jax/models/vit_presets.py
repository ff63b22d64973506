"""Pretrained Vision Transformers by name, "vit_SIZE_PATCH": specs for `config.model`, for images of 224 pixels.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words", table 1; Touvron et al., "Training data-efficient image
transformers", table 1, and Steiner et al., "How to train your ViT?", table 1, for tiny and small.
"""

from typing import Any

from convnn_jax.errors import choose

# Width, depth, hidden width of the MLPs, heads.
SIZES = {
  "tiny": (192, 12, 768, 3),
  "small": (384, 12, 1536, 6),
  "base": (768, 12, 3072, 12),
  "large": (1024, 24, 4096, 16),
  "huge": (1280, 32, 5120, 16),
}
# How the code computes that weights come from: activation, epsilon of the norms.
SOURCES = {"google": ("gelu_tanh", 1e-6), "timm": ("gelu", 1e-6), "huggingface": ("gelu", 1e-12)}


def pretrained(size: str, patch_size: int, source: str = "timm") -> dict[str, Any]:
  """The spec of a Vision Transformer as pretrained ones are; dropout is off.

  Args:
    size: key of SIZES.
    patch_size: side of a patch in pixels.
    source: key of SOURCES.

  Raises:
    UserError: unknown size or source.
  """
  width, depth, mlp_dim, num_heads = choose("size", size, SIZES)
  activation, epsilon = choose("source", source, SOURCES)
  return dict(
    name="vit",
    patch_size=patch_size,
    patch_norm="none",
    width=width,
    depth=depth,
    mlp_dim=mlp_dim,
    attention=dict(name="softmax", num_heads=num_heads, dropout_rate=0.0, qkv_bias=True, out_bias=True),
    dropout_rate=0.0,
    position_embedding="learned",
    pooling="cls",
    final_norm="layer_norm",
    norm_epsilon=epsilon,
    activation=activation,
  )


_PATCHES = {"tiny": (16,), "small": (8, 16, 32), "base": (8, 16, 32), "large": (14, 16, 32), "huge": (14,)}
VIT = {
  f"vit_{size}_{patch}": dict(image_size=224, model=pretrained(size, patch))
  for size, patches in _PATCHES.items()
  for patch in patches
}

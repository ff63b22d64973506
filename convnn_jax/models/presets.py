"""Published model variants by name, as specs for `make_model` and `config.model`.

    config.model = presets.model("cct_7_3x1_32")

Source of the compact transformers: Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", and its
code: FAMILY_LAYERS_TOKENIZER_IMAGESIZE, where the tokenizer is "kernel x convolutions" or the side of a patch. The
Swin family is in swin_presets.py, pretrained ViTs are in vit_presets.py.
"""

import copy
from typing import Any, NamedTuple

from convnn_jax.errors import choose
from convnn_jax.models.swin_presets import SWIN
from convnn_jax.models.vit_presets import VIT


class Compact(NamedTuple):
  """A compact transformer.

  Attributes:
    family: "cct", "cvt" or "vit" (ViT-Lite).
    layers: key of LAYERS.
    tokenizer: kernel and number of convolutions, or side of a patch.
    image_size: side in pixels.
    num_classes: of the data set that it was made for; the data decide.
    position_embedding: "learned" or "sincos".
  """

  family: str
  layers: int
  tokenizer: tuple[int, int] | int
  image_size: int
  num_classes: int
  position_embedding: str = "learned"


LAYERS = {
  2: dict(depth=2, num_heads=2, width=128, mlp_dim=128),
  4: dict(depth=4, num_heads=2, width=128, mlp_dim=128),
  6: dict(depth=6, num_heads=4, width=256, mlp_dim=512),
  7: dict(depth=7, num_heads=4, width=256, mlp_dim=512),
  8: dict(depth=8, num_heads=4, width=256, mlp_dim=512),
  14: dict(depth=14, num_heads=6, width=384, mlp_dim=1152),
  16: dict(depth=16, num_heads=6, width=384, mlp_dim=1152),
}

_LEARNED = {
  "vit_2_4_32": Compact("vit", 2, 4, 32, 10),
  "vit_4_4_32": Compact("vit", 4, 4, 32, 10),
  "vit_6_4_32": Compact("vit", 6, 4, 32, 10),
  "vit_7_4_32": Compact("vit", 7, 4, 32, 10),
  "cvt_2_4_32": Compact("cvt", 2, 4, 32, 10),
  "cvt_4_4_32": Compact("cvt", 4, 4, 32, 10),
  "cvt_6_4_32": Compact("cvt", 6, 4, 32, 10),
  "cvt_7_4_32": Compact("cvt", 7, 4, 32, 10),
  "cct_2_3x2_32": Compact("cct", 2, (3, 2), 32, 10),
  "cct_4_3x2_32": Compact("cct", 4, (3, 2), 32, 10),
  "cct_6_3x1_32": Compact("cct", 6, (3, 1), 32, 10),
  "cct_6_3x2_32": Compact("cct", 6, (3, 2), 32, 10),
  "cct_7_3x1_32": Compact("cct", 7, (3, 1), 32, 10),
  "cct_7_3x1_32_c100": Compact("cct", 7, (3, 1), 32, 100),
  "cct_7_3x2_32": Compact("cct", 7, (3, 2), 32, 10),
  "cct_7_7x2_224": Compact("cct", 7, (7, 2), 224, 102),
  "cct_14_7x2_224": Compact("cct", 14, (7, 2), 224, 1000),
  "cct_14_7x2_384": Compact("cct", 14, (7, 2), 384, 1000),
  "cct_14_7x2_384_fl": Compact("cct", 14, (7, 2), 384, 102),
}


def _with_sine(named):
  """Fixed positions: "_sine" behind the image size, for all but the ImageNet variants of 14 layers."""
  sine = {
    name.replace("_c100", "") + "_sine" + ("_c100" if "_c100" in name else ""): variant._replace(
      position_embedding="sincos"
    )
    for name, variant in named.items()
    if variant.layers < 14
  }
  return named | sine


COMPACT = _with_sine(_LEARNED)


def model(name: str) -> dict[str, Any]:
  """The spec of a named variant, without `num_classes`, which the data set decides.

  Raises:
    UserError: unknown name.
  """
  variant = choose("model preset", name, COMPACT | SWIN | VIT)
  if name not in COMPACT:
    return copy.deepcopy(variant["model"])
  return compact(variant.family, variant.layers, variant.tokenizer, variant.position_embedding)


def compact(family: str, layers: int, tokenizer, position_embedding: str = "learned") -> dict[str, Any]:
  """The spec of a compact transformer for images of any size; arguments as in `Compact`.

  Raises:
    UserError: unknown family or number of layers.
  """
  cut = (lambda: _convolutions(*tokenizer)) if family == "cct" else lambda: _patches(tokenizer)
  tokens = choose("family", family, {"cct": cut, "cvt": cut, "vit": cut})()
  size = dict(choose("layers", layers, LAYERS))
  attention = dict(
    name="softmax", num_heads=size.pop("num_heads"), dropout_rate=0.1, out_bias=True, linear_init="normal"
  )
  return dict(
    name="cct",
    **tokens,
    **size,
    dropout_rate=0.0,
    drop_path_rate=0.1,
    position_embedding=position_embedding,
    pooling="cls" if family == "vit" else "sequence",
    attention=attention,
  )


def _convolutions(kernel_size, number):
  return dict(tokenizer="convolution", kernel_size=kernel_size, num_convolutions=number)


def _patches(side):
  return dict(tokenizer="patches", patch_size=side)

"""Named members of the Swin family: image side in pixels and model spec.

Sources: Liu et al., "Swin Transformer", "Swin Transformer V2" and their code; "Improving Redundancy in Attention" for
what `_qkres` (residual on queries and keys), `_rpw` (weights of relative positions) and `_premlp` (an MLP before
attention) add. The small ones for images of 32 pixels are our proposals.
"""

T_DEPTHS, B_DEPTHS = (2, 2, 6, 2), (2, 2, 18, 2)


def v1(width, depths, num_heads, *, window=7, image=224, drop_path=0.2, patch=4, attention=(), **model):
  """A Swin Transformer."""
  spec = dict(
    name="swin",
    patch_size=patch,
    width=width,
    depths=depths,
    window_size=(window, window),
    attention=dict(name="window", num_heads=num_heads) | dict(attention),
    drop_path_rate=drop_path,
  )
  return dict(image_size=image, model=spec | model)


def v2(width, depths, num_heads, *, window=8, image=256, pretrained=(), attention=(), **options):
  """A Swin Transformer V2; `pretrained` are the windows of its stages in pre-training."""
  cosine = dict(similarity="cosine", relative_bias="mlp") | dict(attention)
  if pretrained:
    cosine["pretrained_window"] = tuple((side, side) for side in pretrained)
  fixed = dict(window=window, image=image, attention=cosine, norm_placement="post")
  return v1(width, depths, num_heads, **fixed, **options)


def mlp(width, depths, num_heads, **options):
  """A SwinMLP."""
  return v1(width, depths, num_heads, attention=dict(name="spatial_mlp"), shift="pad", **options)


_HEADS, _B_HEADS, _L_HEADS = (3, 6, 12, 24), (4, 8, 16, 32), (6, 12, 24, 48)
_T, _S = (96, T_DEPTHS, _HEADS), (96, B_DEPTHS, _HEADS)
_B, _L = (128, B_DEPTHS, _B_HEADS), (192, B_DEPTHS, _L_HEADS)
_FROM_192 = dict(pretrained=(12, 12, 12, 6), drop_path=0.2)

_QKRES = dict(qk_residual=True)
_RPW = dict(_QKRES, rel_pos_weight="table", rel_pos_weight_std=1e-4)
_RPW2 = dict(_QKRES, rel_pos_weight="mlp", rel_pos_weight_std=2e-4, relative_bias_bound="none")

IMAGENET = {
  "swin_tiny": v1(*_T),
  "swin_tiny_c24": v1(96, T_DEPTHS, _B_HEADS, window=8, image=256),
  "swin_small": v1(*_S, drop_path=0.3),
  "swin_base": v1(*_B, drop_path=0.5),
  "swin_base_384": v1(*_B, window=12, image=384, drop_path=0.5),
  "swin_large": v1(*_L),
  "swin_large_384": v1(*_L, window=12, image=384),
  "swinv2_tiny_w8": v2(*_T),
  "swinv2_tiny_w16": v2(*_T, window=16),
  "swinv2_small_w8": v2(*_S, drop_path=0.3),
  "swinv2_small_w16": v2(*_S, window=16, drop_path=0.3),
  "swinv2_base_w8": v2(*_B, drop_path=0.5),
  "swinv2_base_w16": v2(*_B, window=16, drop_path=0.5),
  "swinv2_base_w12": v2(*_B, window=12, image=192),
  "swinv2_base_w12to16": v2(*_B, window=16, **_FROM_192),
  "swinv2_base_w12to24": v2(*_B, window=24, image=384, **_FROM_192),
  "swinv2_large_w12": v2(*_L, window=12, image=192),
  "swinv2_large_w12to16": v2(*_L, window=16, **_FROM_192),
  "swinv2_large_w12to24": v2(*_L, window=24, image=384, **_FROM_192),
  "swin_mlp_tiny_c24": mlp(96, T_DEPTHS, _B_HEADS, window=8, image=256),
  "swin_mlp_tiny_c12": mlp(96, T_DEPTHS, (8, 16, 32, 64), window=8, image=256),
  "swin_mlp_tiny_c6": mlp(96, T_DEPTHS, (16, 32, 64, 128), window=8, image=256),
  "swin_mlp_base": mlp(*_B, drop_path=0.5),
  "swin_tiny_qkres": v1(*_T, attention=_QKRES),
  "swin_tiny_qkres_rpw": v1(*_T, attention=_RPW),
  "swin_tiny_qkres_rpw_premlp": v1(*_T, attention=_RPW, pre_mlp="stem"),
  "swinv2_tiny_w8_qkres": v2(*_T, attention=_QKRES),
  "swinv2_tiny_w8_qkres_rpw": v2(*_T, attention=_RPW2),
  "swinv2_tiny_w8_qkres_rpw_premlp": v2(*_T, attention=_RPW2, pre_mlp="stage"),
}

_NANO, _MICRO = (48, (2, 2, 6), (2, 4, 8)), (96, (2, 2, 6), (3, 6, 12))
_SMALL_IMAGES = dict(window=4, image=32, patch=2, drop_path=0.1)


def _small(name, sizes):
  """The members of a size, for grids of 16, 8 and 4 tokens a side."""
  return {
    f"swin_{name}": v1(*sizes, **_SMALL_IMAGES),
    f"swin_{name}_qkres": v1(*sizes, attention=_QKRES, **_SMALL_IMAGES),
    f"swin_{name}_qkres_rpw": v1(*sizes, attention=_RPW, **_SMALL_IMAGES),
    f"swin_{name}_qkres_rpw_premlp": v1(*sizes, attention=_RPW, pre_mlp="stem", **_SMALL_IMAGES),
    f"swinv2_{name}": v2(*sizes, **_SMALL_IMAGES),
    f"swinv2_{name}_qkres_rpw_premlp": v2(*sizes, attention=_RPW2, pre_mlp="stage", **_SMALL_IMAGES),
    f"swin_mlp_{name}": mlp(*sizes, **_SMALL_IMAGES),
  }


SMALL = {
  **_small("nano", _NANO),
  **_small("micro", _MICRO),
  **_small("small32", (96, (2, 6, 4), (3, 6, 12))),
  **_small("tiny32", _T),
}
SWIN = {**IMAGENET, **SMALL}

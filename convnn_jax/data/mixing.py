"""Mixup and CutMix: two images in one, and their labels in the same shares.

Sources: Zhang et al., "mixup: Beyond Empirical Risk Minimization"; Yun et al., "CutMix: Regularization Strategy to
Train Strong Classifiers with Localizable Features". One share and one box per batch, as in PyTorch Image Models.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import betaincinv

from convnn_jax.data.boxes import Boxes, inside


def mix(images, targets, key, *, mixup_alpha, cutmix_alpha, probability, switch_probability, enabled):
  """Mixes every image with its partner's, and the targets alike.

  Rows 2i and 2i + 1 are partners. Batches are random permutations, so this is as random as any pairing, it does not
  depend on how the batch lies on devices, and it moves nothing between devices that hold whole pairs.

  Args:
    images: float [b y x c], normalised; b is even.
    targets: float32 [b num_classes], shares of the classes.
    key: jax.random key.
    mixup_alpha, cutmix_alpha: parameter of the symmetric beta distribution of the share; 0 = method not used.
    probability: of mixing this batch at all.
    switch_probability: of CutMix where both are used.
    enabled: bool scalar, may be traced; False returns both as they are.

  Returns:
    (images, targets).
  """
  apply_key, switch_key, share_key, box_key = jax.random.split(key, 4)
  cut = jax.random.uniform(switch_key) < (
    switch_probability if mixup_alpha and cutmix_alpha else bool(cutmix_alpha)
  )
  u = jax.random.uniform(share_key)
  share = jnp.where(cut, beta_quantile(u, cutmix_alpha), beta_quantile(u, mixup_alpha))  # of the image itself
  applied = enabled & (jax.random.uniform(apply_key) < probability)
  share = jnp.where(applied, share, 1.0)

  shape = images.shape[1:3]
  box = cutmix_box(box_key, share, shape)
  kept = ~inside(box, shape)  # [1 y x]
  share = jnp.where(cut, jnp.mean(kept, dtype=jnp.float32), share)  # of what was really kept
  own = jnp.where(cut, kept, share)[..., None]
  mixed = own * images + (1 - own) * _partner(images)
  return mixed.astype(images.dtype), share * targets + (1 - share) * _partner(targets)


def beta_quantile(u, alpha):
  """The u-quantile of Beta(alpha, alpha), so a draw of it for uniform u; `alpha` is a plain number, 0 gives 1.

  A table of 4096 entries, linear between them: jax.random.beta takes ten seconds and more to compile.
  """
  if not alpha:
    return jnp.ones_like(u)
  grid = np.linspace(0, 1, 4097)
  return jnp.interp(
    u, jnp.asarray(grid, jnp.float32), jnp.asarray(betaincinv(alpha, alpha, grid), jnp.float32)
  )


def cutmix_box(key, share, shape):
  """The box that leaves about `share` of the area: its middle is any pixel, and what sticks out is cut off.

  Args:
    key: jax.random key.
    share: float scalar in [0, 1].
    shape: (y, x), pixels.

  Returns:
    Boxes of one box; empty for share 1.
  """
  ratio = jnp.sqrt(1 - share)
  edges = []
  for size, axis_key in zip(shape, jax.random.split(key), strict=True):
    half = (size * ratio).astype(jnp.int32) // 2
    middle = jax.random.randint(axis_key, (1,), 0, size)
    edges.append((jnp.clip(middle - half, 0, size), jnp.clip(middle + half, 0, size)))
  (top, bottom), (left, right) = edges
  return Boxes(top, left, bottom - top, right - left)


def _partner(rows):
  """[b ...] -> the same with rows 2i and 2i + 1 exchanged."""
  pairs = rows.reshape(-1, 2, *rows.shape[1:])
  return jnp.flip(pairs, axis=1).reshape(rows.shape)

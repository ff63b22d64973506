"""Which tokens see which: boolean masks [n m], True = visible, made at trace time with NumPy.

`hidden_bias` turns a mask into what is added to the scores.
"""

import jax.numpy as jnp
import numpy as np

from convnn_jax.errors import UserError

# Added to the scores of hidden pairs: exp of it is 0 in float32, yet a row that is hidden as a whole stays finite.
HIDDEN = -1e9


def hidden_bias(mask, dtype=jnp.float32):
  """[... n m] True = visible -> 0 where visible, a large negative number elsewhere."""
  return jnp.where(jnp.asarray(mask), 0.0, HIDDEN).astype(dtype)


def causal(num_tokens: int) -> np.ndarray:
  """j <= i: a token sees itself and those before it."""
  return np.tri(num_tokens, dtype=bool)


def band(num_tokens: int, reach: int) -> np.ndarray:
  """|i - j| <= reach."""
  i = np.arange(num_tokens)
  return np.abs(i[:, None] - i[None]) <= reach


def strided(num_tokens: int, stride: int) -> np.ndarray:
  """(i - j) mod stride == 0.

  Raises:
    UserError: stride below 1.
  """
  if stride < 1:
    raise UserError(f"window={stride} must be at least 1.")
  i = np.arange(num_tokens)
  return (i[:, None] - i[None]) % stride == 0


def neighborhood(
  num_tokens: int,
  window: int,
  *,
  dilation: int = 1,
  stride: int = 1,
  causal: bool = False,
  counted: str = "tokens",
) -> np.ndarray:
  """Each query sees exactly `window` keys: the nearest ones, the window moved inwards at the ends.

  Source: Hassani et al., "Neighborhood Attention Transformer", section 3, one dimension. With a dilation s, the
  tokens of equal residue mod s are sequences of their own; with a stride t, the queries of a group of t share the
  window of the group's middle member. Causal: the last `window` keys up to the group's last member, but none behind
  the query itself; with stride 1 exactly `window` keys. `counted` names the tokens in error messages, such as "rows".

  Raises:
    UserError: window * dilation exceeds the number of tokens.
  """
  if window < 1 or dilation < 1 or stride < 1:
    raise UserError(f"window_size={window}, dilation={dilation} and stride={stride} must be at least 1.")
  if window * dilation > num_tokens:
    raise UserError(
      f"window_size={window} times dilation={dilation} must be at most {num_tokens}, the number of {counted}."
    )
  mask = np.zeros((num_tokens, num_tokens), bool)
  left, right = window // 2, window // 2 + window % 2 - 1
  for residue in range(dilation):
    members = np.arange(residue, num_tokens, dilation)
    count = len(members)
    for position, token in enumerate(members):
      group = position // stride * stride
      if causal:
        last = min(group + stride - 1, count - 1)
        seen = members[max(last - window + 1, 0) : position + 1]
      else:
        leader = min(group + stride // 2, count - 1)
        centre = int(np.clip(leader, left, count - 1 - right))
        seen = members[centre - left : centre + right + 1]
      mask[token, seen] = True
  return mask


def with_prefix(mask: np.ndarray, num_prefix: int) -> np.ndarray:
  """Puts `num_prefix` tokens in front that see all and are seen by all."""
  size = len(mask) + num_prefix
  grown = np.ones((size, size), bool)
  grown[num_prefix:, num_prefix:] = mask
  return grown


def local_windows(num_tokens: int, window: int, *, backward: int, forward: int, exact: bool, causal: bool):
  """Windows of `window` tokens see themselves, `backward` windows before and `forward` after.

  `exact` also asks i - window * backward <= j <= i + window * forward. Source: local-attention (lucidrains), whose
  bounds read j - window * forward <= i <= j + window * backward.
  """
  i = np.arange(num_tokens)
  steps = i[None] // window - i[:, None] // window
  mask = (steps >= -backward) & (steps <= forward)
  ahead = i[None] - i[:, None]  # j - i
  if exact:
    mask &= ahead >= -window * backward
    if not causal:
      mask &= ahead <= window * forward
  if causal:
    mask &= ahead <= 0
  return mask

"""Random keys of a module, the same whether its layer runs by itself or as one turn of a loop over layers."""

import contextlib
import contextvars
import hashlib
from collections import Counter
from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
import numpy as np

_LAYER: contextvars.ContextVar["LoopedLayer | None"] = contextvars.ContextVar("layer", default=None)


def random_key(module, stream: str) -> jax.Array:
  """`module.make_rng(stream)`, for modules that may stand in a loop over layers (models/layer_loop.py).

  In such a loop `make_rng` itself gives other keys than the layers run one by one would get.
  """
  layer = _LAYER.get()
  return module.make_rng(stream) if layer is None else layer.key(module, stream)


class LoopedLayer:
  """The layer whose turn it is: knows the names that its equals have outside of the loop.

  While `active`, modules applied as that layer draw the keys of layer `names[turn]`.
  """

  def __init__(self, rngs, names: Sequence[str], turn):
    """`rngs` of the parent's scope, names of the layers that take turns, and the traced number of the turn."""
    self._rngs, self._names, self._turn = rngs, names, turn
    self._drawn = Counter()

  @contextlib.contextmanager
  def active(self):
    """For the time in which the layer is traced."""
    token = _LAYER.set(self)
    try:
      yield
    finally:
      _LAYER.reset(token)

  def key(self, module, stream: str) -> jax.Array:
    """The next key of `module`, whose path begins at the layer."""
    if stream not in self._rngs:
      return module.make_rng(stream)  # says what is missing
    place = (*module.path, stream)
    self._drawn[place] += 1
    above = self._rngs[stream].suffix
    numbers = [fold_number((*above, name, *module.path, self._drawn[place])) for name in self._names]
    number = jnp.asarray(np.asarray(numbers, np.uint32))[self._turn]
    return jax.random.fold_in(self._rngs[stream].rng, number)

  def other_rngs(self) -> dict[str, jax.Array]:
    """For modules that call make_rng: different in every layer, but not those of the layers run one by one."""
    fold = lambda rng: jax.random.fold_in(rng.rng, fold_number((*rng.suffix, "loop")))
    return {stream: jax.random.fold_in(fold(rng), self._turn) for stream, rng in self._rngs.items()}


def fold_number(path: Sequence[str | int]) -> int:
  """The number that Flax folds into a key for a module's path and the count of its draws."""
  sha = hashlib.sha1()
  for part in path:
    if flax.config.flax_fix_rng_separator:
      sha.update(b"\00")
    whole = isinstance(part, int)
    sha.update(part.to_bytes((part.bit_length() + 7) // 8, "big") if whole else part.encode())
  return int.from_bytes(sha.digest()[:4], "big")

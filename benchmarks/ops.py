"""Single operations, forward and backward: neighbour attention, k-NN attention, Sinkhorn, attention in windows."""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from benchmarks.cases import Figure, Group, Ratio
from benchmarks.measure import Compiled, gradients
from convnn_jax.ops.neighbors import aggregate_neighbors, neighbor_weights
from convnn_jax.ops.products import mix_values
from convnn_jax.ops.selection import keep_neighbors, select_neighbors
from convnn_jax.ops.similarity import similarity
from convnn_jax.ops.sinkhorn import sinkhorn


def dense(query, key, value):
  """Softmax attention of [b n h d]: the yardstick."""
  scores = similarity(query, key, scale=query.shape[-1] ** -0.5)
  return mix_values(jax.nn.softmax(scores, axis=-1), value)


def convnn(query, key, value, kernel, implementation="auto", method="auto"):
  """Neighbour attention of [b n h d] with a depthwise kernel [k d]."""
  scores = similarity(query, key, scale=query.shape[-1] ** -0.5)
  values, index = select_neighbors(scores, len(kernel), method)
  out = aggregate_neighbors(
    jnp.swapaxes(value, 1, 2), index, neighbor_weights(values), kernel, implementation
  )
  return jnp.swapaxes(out, 1, 2)


def literal(query, key, value, kernel):
  """The definition as one would write it down: top-k, gather, a depthwise convolution of stride k."""
  b, n, h, d = value.shape
  k = len(kernel)
  scores = similarity(query, key, scale=d**-0.5)
  values, index = jax.lax.top_k(scores, k)
  rows = jnp.broadcast_to(jnp.swapaxes(value, 1, 2)[:, :, None], (b, h, n, n, d))
  chosen = jnp.take_along_axis(rows, index[..., None], axis=3) * jax.nn.softmax(values, axis=-1)[..., None]
  out = jax.lax.conv_general_dilated(
    chosen.reshape(b * h, n * k, d),
    kernel[:, None],
    window_strides=(k,),
    padding="VALID",
    dimension_numbers=("NHC", "HIO", "NHC"),
    feature_group_count=d,
  )
  return jnp.swapaxes(out.reshape(b, h, n, d), 1, 2)


def knn(query, key, value, k):
  """Softmax over the k largest scores."""
  scores = similarity(query, key, scale=query.shape[-1] ** -0.5)
  kept = jnp.where(keep_neighbors(scores, k), scores, -jnp.inf)
  return mix_values(jax.nn.softmax(kept, axis=-1), value)


def _normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def _tokens(shape):
  b, n, h, d = shape
  return [_normal(seed, b, n, h, d) for seed in (1, 2, 3)]


def _attention(function, shape, k=0):
  kernel = [1 + 0.1 * _normal(4, k, shape[-1])] if k else []
  return gradients(function, *_tokens(shape), *kernel)


def _saved_bytes(contender: Compiled) -> int:
  """What the forward pass of `convnn` hands to the backward pass, each array once; arguments, as they are or with
  their axes in another order, aside."""
  _, *arguments = contender.arguments
  jaxpr = jax.make_jaxpr(lambda *a: jax.vjp(convnn, *a)[1])(*arguments).jaxpr
  same = {id(v) for v in jaxpr.invars}
  for equation in jaxpr.eqns:
    if equation.primitive.name == "transpose" and id(equation.invars[0]) in same:
      same.add(id(equation.outvars[0]))
  saved = {id(v): v.aval for v in jaxpr.outvars if id(v) not in same}
  return sum(array.size * array.dtype.itemsize for array in saved.values() if array.ndim)


def _saved_over_neighbors(contender: Compiled) -> float:
  """The same over 8 b h n k bytes: a weight and a place for each neighbour."""
  _, query, _, _, kernel = contender.arguments
  b, n, h, _ = query.shape
  return _saved_bytes(contender) / (8 * b * h * n * len(kernel))


ATTENTION_SHAPES = {"197": (16, 197, 3, 64), "65": (32, 65, 3, 64)}


def _neighbor_group(tokens: str, cases) -> Group:
  shape = ATTENTION_SHAPES[tokens]
  make = functools.partial
  return Group(
    f"ops_{tokens}",
    ("cpu", "gpu", "tpu", *(("quick",) if tokens == "65" else ())),
    {
      "dense": make(_attention, dense, shape),
      **{f"convnn k={k}": make(_attention, convnn, shape, k) for k in (4, 9, 25)},
      "literal k=9": make(_attention, literal, shape, 9),
      "knn k=100": make(_attention, functools.partial(knn, k=100), shape),
      "knn k=9": make(_attention, functools.partial(knn, k=9), shape),
    },
    cases,
  )


def _temp(name, over):
  return lambda contenders, least: contenders[name].temp_bytes / contenders[over].temp_bytes


OPS_197 = _neighbor_group(
  "197",
  (
    Ratio("C6", "neighbour attention k=9 / softmax attention, 197 tokens", "convnn k=9", "dense", 1.5),
    Ratio("C6b", "neighbour attention k=25 / softmax attention, 197 tokens", "convnn k=25", "dense", 3.5),
    Ratio("C7", "neighbour attention k=9 / its definition, 197 tokens", "convnn k=9", "literal k=9", 1 / 8),
    Ratio("C13", "k-NN attention k=100 / softmax attention, 197 tokens", "knn k=100", "dense", 2.0),
    Ratio("C13b", "k-NN attention k=9 / softmax attention, 197 tokens", "knn k=9", "dense", 2.0),
    Figure(
      "M1",
      "temporary memory, k=25 / k=4",
      ("convnn k=25", "convnn k=4"),
      _temp("convnn k=25", "convnn k=4"),
      1.25,
    ),
    Figure(
      "M1b",
      "temporary memory, k=25 / softmax attention",
      ("convnn k=25", "dense"),
      _temp("convnn k=25", "dense"),
      1.0,
    ),
    Figure(
      "M3",
      "kept for the backward pass besides the arguments / (8 b h n k) bytes",
      ("convnn k=9",),
      lambda contenders, least: _saved_over_neighbors(contenders["convnn k=9"]),
      1.0,
    ),
  ),
)

OPS_65 = _neighbor_group(
  "65",
  (
    Ratio("C6c", "neighbour attention k=9 / softmax attention, 65 tokens", "convnn k=9", "dense"),
    Ratio("C7b", "neighbour attention k=9 / its definition, 65 tokens", "convnn k=9", "literal k=9", 1 / 8),
  ),
)


def log_sinkhorn(cost, regularization, iterations):
  """Sinkhorn's iteration on logarithms, step by step, left to automatic differentiation."""
  n = cost.shape[-1]
  plan = -cost / regularization
  for _ in range(iterations):
    plan = plan - logsumexp(plan, axis=-1, keepdims=True) - jnp.log(n)
    plan = plan - logsumexp(plan, axis=-2, keepdims=True) - jnp.log(n)
  return plan


_COSTS = (48, 1, 197, 197)


def _transport(solve):
  cost = jax.random.uniform(jax.random.key(1), _COSTS) * 2
  return gradients(lambda cost: jnp.exp(solve(cost, 0.1, iterations=10)), cost)


SINKHORN = Group(
  "sinkhorn",
  ("cpu", "gpu", "tpu"),
  {
    "sinkhorn": lambda: _transport(functools.partial(sinkhorn, domain="exp")),
    "sinkhorn, log domain": lambda: _transport(functools.partial(sinkhorn, domain="log")),
    "log domain, written out": lambda: _transport(log_sinkhorn),
  },
  (
    Ratio(
      "C8",
      "Sinkhorn, 10 iterations, 48 x 197 x 197 / log domain written out",
      "sinkhorn",
      "log domain, written out",
      1 / 5,
      headline="sinkhorn_vs_log_unrolled",
    ),
    Figure(
      "M5",
      "temporary memory of Sinkhorn / one matrix of costs",
      ("sinkhorn",),
      lambda contenders, least: contenders["sinkhorn"].temp_bytes / (4 * 48 * 197 * 197),
      3.0,
    ),
  ),
)


def windowed(query, key, value, relative, mask):
  """Attention in windows as WindowAttention does it: [b*w n h d], relative [1 h n m], mask [w n m]."""
  images = len(query) // len(mask)
  mask = jnp.broadcast_to(mask[None, :, None], (images, len(mask), 1, *mask.shape[1:]))
  scores = similarity(query, key, scale=query.shape[-1] ** -0.5) + relative
  scores = scores + mask.reshape(-1, *mask.shape[2:])
  return mix_values(jax.nn.softmax(scores, axis=-1), value)


def library_windowed(query, key, value, relative, mask):
  """The same by jax.nn.dot_product_attention."""
  images = len(query) // len(mask)
  bias = relative[0][None, None] + jnp.broadcast_to(
    mask[None, :, None], (images, len(mask), 1, *mask.shape[1:])
  )
  bias = bias.reshape(-1, *bias.shape[2:])
  return jax.nn.dot_product_attention(query, key, value, bias=bias)


def _windows(function):
  tokens = _tokens((1024, 49, 3, 32))
  mask = jnp.where(jax.random.bernoulli(jax.random.key(5), 0.5, (64, 49, 49)), 0.0, -100.0)
  return gradients(lambda q, k, v, r: function(q, k, v, r, mask), *tokens, _normal(4, 1, 3, 49, 49))


WINDOWS = Group(
  "windows",
  ("cpu", "gpu", "tpu"),
  {
    "window attention": lambda: _windows(windowed),
    "jax.nn.dot_product_attention": lambda: _windows(library_windowed),
  },
  (
    Ratio(
      "C9",
      "attention in 1024 windows of 49 tokens, bias and mask / jax.nn.dot_product_attention",
      "window attention",
      "jax.nn.dot_product_attention",
      0.95,
    ),
  ),
)

GROUPS = (OPS_197, OPS_65, SINKHORN, WINDOWS)

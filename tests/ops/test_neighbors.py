"""Weights and aggregation of neighbours: values, gradients, and what the compiler makes of them."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.errors import UserError
from convnn_jax.ops.neighbors import (
  IMPLEMENTATIONS,
  WEIGHTINGS,
  aggregate_neighbors,
  dense_weights,
  neighbor_weights,
)
from convnn_jax.ops.selection import hidden_score, select_neighbors


def _random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_weights_of_hidden_candidates_are_zero():
  values = jnp.asarray([2.0, 1.0, hidden_score(np.float32)])[None, None, None]
  for weighting in WEIGHTINGS:
    for similarity in ("dot", "euclidean", "distance"):
      weights = neighbor_weights(values, weighting=weighting, similarity=similarity, temperature=0.5)
      assert np.all(np.isfinite(weights))
      assert weights[0, 0, 0, 2] == 0


def test_weights():
  values = jnp.asarray([-1.0, -3.0])[None, None, None]
  weigh = lambda *args, **kw: np.asarray(neighbor_weights(values, weighting=args[0], **kw))[0, 0, 0]
  np.testing.assert_allclose(
    weigh("softmax", temperature=2.0), [np.e / (1 + np.e), 1 / (1 + np.e)], rtol=1e-6
  )
  np.testing.assert_allclose(weigh("similarity"), [-1, -3])
  np.testing.assert_allclose(weigh("similarity", similarity="euclidean"), [1, 1 / 3], rtol=1e-6)
  np.testing.assert_allclose(weigh("similarity", similarity="distance"), [1, 3])
  np.testing.assert_allclose(weigh("sum"), [0.25, 0.75])
  np.testing.assert_allclose(weigh("sum", similarity="euclidean"), [0.75, 0.25], rtol=1e-6)
  np.testing.assert_allclose(weigh("full_softmax"), [-1, -3])
  with pytest.raises(UserError, match="Did you mean 'softmax'"):
    weigh("soft-max")


SHAPES = {
  "several": dict(b=2, h=2, n=5, m=6, k=3, d=4, e=7),
  "one of all": dict(b=1, h=1, n=1, m=1, k=1, d=1, e=1),
  "all chosen": dict(b=1, h=3, n=4, m=5, k=5, d=3, e=2),
  "odd": dict(b=3, h=1, n=19, m=17, k=2, d=33, e=5),
}


def _inputs(kind, b, h, n, m, k, d, e):
  rng = np.random.default_rng(3)
  index = np.argsort(rng.random((b, h, n, m)), axis=-1)[..., :k].astype(np.int32)
  kernel = rng.standard_normal((k, d) if kind == "depthwise" else (k, d, e))
  return rng.standard_normal((b, h, m, d)), index, rng.standard_normal((b, h, n, k)), kernel


def _loops(value, index, weights, kernel):
  out = np.zeros((*index.shape[:-1], kernel.shape[-1]))
  for b, h, n, r in np.ndindex(index.shape):
    neighbor = weights[b, h, n, r] * value[b, h, index[b, h, n, r]]
    out[b, h, n] += kernel[r] * neighbor if kernel.ndim == 2 else neighbor @ kernel[r]
  return out


def _output_and_gradients(value, index, weights, kernel):
  """Of every implementation, compiled together."""

  def run(cotangent, implementation):
    function = lambda v, w, t: aggregate_neighbors(v, index, w, t, implementation)
    out, backward = jax.vjp(function, value, weights, kernel)
    return out, *backward(cotangent)

  cotangent = np.random.default_rng(5).standard_normal((*index.shape[:-1], kernel.shape[-1]))
  names = sorted(IMPLEMENTATIONS)
  return dict(zip(names, fast_jit(lambda c: [run(c, name) for name in names])(cotangent), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_implementations_agree_in_float64(kind, shape):
  with jax.enable_x64(True):
    inputs = _inputs(kind, **SHAPES[shape])
    results = _output_and_gradients(*map(jnp.asarray, inputs))
  np.testing.assert_allclose(results["reference"][0], _loops(*inputs), rtol=1e-12, atol=1e-12)
  for name, result in results.items():
    for ours, expected in zip(result, results["reference"], strict=True):
      assert ours.dtype == np.float64
      np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_bfloat16_values_keep_their_dtype_and_are_added_in_float32(kind):
  value, index, weights, kernel = _inputs(kind, **SHAPES["odd"])
  exact = _loops(
    *(
      np.asarray(jnp.asarray(x, jnp.bfloat16), float) if x is not index else x
      for x in (value, index, weights, kernel)
    )
  )
  arguments = jnp.asarray(value, jnp.bfloat16), index, jnp.asarray(weights), jnp.asarray(kernel)
  for name in IMPLEMENTATIONS:
    out, backward = jax.vjp(
      lambda v, w, t: aggregate_neighbors(v, index, w, t, name), *arguments[::2], arguments[3]
    )
    assert out.dtype == jnp.bfloat16
    assert [g.dtype for g in backward(out)] == [jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(np.asarray(out, float), exact, rtol=0.05, atol=0.1)


def test_unknown_implementation():
  with pytest.raises(UserError, match="Did you mean 'gather'"):
    aggregate_neighbors(*_inputs("depthwise", **SHAPES["several"]), "gathers")


def test_a_kernel_of_another_length_is_refused():
  value, index, weights, kernel = _inputs("depthwise", **SHAPES["several"])
  with pytest.raises(ValueError, match="does not fit k=3, d=4"):
    aggregate_neighbors(value, index, weights, kernel[:2])


def test_dense_weights():
  index, weights = np.array([[[[1, 0], [2, 2]]]]), np.array([[[[0.5, 0.25], [1.0, 2.0]]]], np.float32)
  np.testing.assert_array_equal(dense_weights(index, weights, 3)[0, 0], [[0.25, 0.5, 0], [0, 0, 3]])


def _loss(scores, value, kernel, implementation="gather"):
  values, index = select_neighbors(scores, kernel.shape[0])
  return jnp.sum(jnp.sin(aggregate_neighbors(value, index, neighbor_weights(values), kernel, implementation)))


def _compiled(kind, *, b, h, n, k, d, sharding=None, implementation="gather"):
  """Selection, weights and aggregation with all gradients, as a training step has them."""
  array = lambda *shape, where=None: jax.ShapeDtypeStruct(shape, np.float32, sharding=where)
  kernel = array(k, d) if kind == "depthwise" else array(k, d, d)
  scores, value = array(b, h, n, n, where=sharding), array(b, h, n, d, where=sharding)
  loss = functools.partial(_loss, implementation=implementation)
  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(scores, value, kernel).compile()


def _largest_buffer(text):
  shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", text)
  return max(math.prod(int(size) for size in shape.split(",")) for shape in shapes)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
@pytest.mark.parametrize("implementation", ["gather", "onehot"])
def test_compiled_step_neither_sorts_nor_gathers_all_neighbors(kind, implementation):
  sizes = dict(b=2, h=3, n=32, k=6, d=24)
  text = _compiled(kind, implementation=implementation, **sizes).as_text()
  assert " sort(" not in text
  assert _largest_buffer(text) < math.prod(sizes.values())
  assert _largest_buffer(_compiled(kind, implementation="reference", **sizes).as_text()) >= math.prod(
    sizes.values()
  )


def test_the_library_path_does_not_sort_either():
  assert " sort(" not in _compiled("depthwise", b=1, h=1, n=48, k=40, d=4).as_text()


@pytest.mark.parametrize("heads", [1, 3])
def test_memory_does_not_grow_with_k(heads):
  sizes = dict(b=2, h=heads, n=197, d=192 // heads)  # the published model
  few, many = (_compiled("depthwise", k=k, **sizes).memory_analysis().temp_size_in_bytes for k in (4, 25))
  # What grows is a handful of [b h n k]; with neighbours stored it would be d of them.
  assert many - few <= 12 * 4 * 2 * heads * 197 * (25 - 4)


def test_the_backward_pass_keeps_places_and_weights_only():
  b, h, n, k, d = 2, 3, 32, 6, 24
  array = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)

  def chosen(scores, value, kernel):
    values, index = select_neighbors(scores, k)
    return aggregate_neighbors(value, index, neighbor_weights(values), kernel)

  arguments = array(b, h, n, n), array(b, h, n, d), array(k, d)
  jaxpr = jax.make_jaxpr(lambda *a: jax.vjp(chosen, *a)[1])(*arguments).jaxpr
  saved = {id(v): v.aval for v in jaxpr.outvars if v not in jaxpr.invars}  # each array once
  sizes = sorted(array.size * array.dtype.itemsize for array in saved.values())
  assert sum(sizes) <= 8 * b * h * n * k + 64, sizes


def test_softmax_weights_have_the_gradients_of_a_softmax():
  values = _random(2, 1, 3, 4)
  values[0, 0, 0, 2:] = values[0, 0, 1] = hidden_score(np.float32)
  cotangent = _random(2, 1, 3, 4, seed=1)

  def plain(values, temperature):
    hidden = values <= hidden_score(np.float32) / 2
    weights = jax.nn.softmax(jnp.where(hidden, -1e9, values / temperature), axis=-1)
    return jnp.sum(jnp.where(hidden, 0.0, weights) * cotangent)

  ours = lambda values, temperature: jnp.sum(neighbor_weights(values, temperature=temperature) * cotangent)
  gradients = [fast_jit(jax.grad(f, argnums=(0, 1)))(values, 0.7) for f in (ours, plain)]
  for a, b in zip(*gradients, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["depthwise", "standard"])
def test_a_sharded_batch_stays_where_it_is(kind):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  for implementation in ("gather", "onehot"):
    sizes = dict(b=8, h=2, n=16, k=4, d=8)
    text = _compiled(kind, sharding=sharding, implementation=implementation, **sizes).as_text()
    assert "all-reduce" in text  # of the kernel's gradient and the loss: it is a sharded program
    for collective in ("all-gather", "all-to-all", "collective-permute"):
      assert collective not in text


def test_eight_devices_give_what_one_gives():
  mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
  place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
  scores, value, kernel = _random(8, 2, 11, 11), _random(8, 2, 11, 5, seed=1), _random(3, 5, seed=2)
  for name in IMPLEMENTATIONS:
    gradient = jax.jit(jax.value_and_grad(functools.partial(_loss, implementation=name), argnums=(0, 1, 2)))
    spread = gradient(place(scores, "data", "tensor"), place(value, "data", "tensor"), place(kernel))
    for ours, expected in zip(
      jax.tree.leaves(spread), jax.tree.leaves(gradient(scores, value, kernel)), strict=True
    ):
      np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)

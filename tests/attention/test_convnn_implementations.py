"""Every way to compute ConvNN attention gives the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convnn_modules import apply_convnn, make_convnn, make_tokens, random_params
from fast_jit import fast_jit

IMPLEMENTED = {
  "plain": dict(),
  "raw weights, standard": dict(weighting="similarity", convolution="standard", similarity="cosine"),
  "candidates": dict(candidates="random", num_candidates=5),
  "coordinates": dict(convolution="depthwise_separable", coordinate_encoding=True, similarity="euclidean"),
}


@pytest.mark.parametrize("case", IMPLEMENTED)
def test_implementations_agree_in_float64(case):
  spec = dict(num_heads=2, num_neighbors=3) | IMPLEMENTED[case]
  x, bias = make_tokens(2, 7, 6), make_tokens(1, 2, 7, 7, seed=3)
  modules = [make_convnn(**spec, implementation=word) for word in ("auto", "gather", "onehot", "reference")]
  params = random_params(modules[0], x)

  def run(module, params, x):
    value = lambda p, x: jnp.sum(jnp.sin(module.apply({"params": p}, x, train=False, bias=bias)))
    return jax.value_and_grad(value, argnums=(0, 1))(params, x)

  with jax.enable_x64(True):
    results = fast_jit(lambda p, x: [run(module, p, x) for module in modules])(params, x)
  for result in results[1:]:
    for ours, expected in zip(jax.tree.leaves(result), jax.tree.leaves(results[0]), strict=True):
      np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_the_kernel_gives_what_the_operations_give(monkeypatch):
  from convnn_jax.ops import neighbor_attention

  monkeypatch.setattr(
    "convnn_jax.attention.convnn.neighbor_attention",
    lambda *args, **options: neighbor_attention.neighbor_attention(*args, mode="interpreted", **options),
  )
  x = make_tokens(2, 7, 6)
  for extra in (dict(), dict(convolution="depthwise_separable", temperature=0.5)):
    spec = dict(num_heads=2, num_neighbors=3, **extra)
    ours, plain = make_convnn(implementation="pallas", **spec), make_convnn(**spec)
    params = random_params(plain, x)
    np.testing.assert_allclose(
      apply_convnn(ours, params, x), apply_convnn(plain, params, x), rtol=1e-4, atol=1e-5
    )
    bias = jnp.asarray(make_tokens(1, 1, 7, 7, seed=3), jnp.float32)
    biased = [apply_convnn(module, params, x, bias=bias) for module in (ours, plain)]
    np.testing.assert_allclose(*biased, rtol=1e-5, atol=1e-6)

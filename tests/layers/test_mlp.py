"""The exact GELU."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.layers.mlp import gelu

X = np.linspace(-8, 8, 65)
PHI = np.asarray([0.5 * math.erfc(-x / math.sqrt(2)) for x in X])


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 2e-6), ("bfloat16", 2**-6)])
def test_gelu_is_exact(dtype, atol):
  x = jnp.asarray(X, dtype)
  y = gelu(x)
  assert y.dtype == x.dtype
  np.testing.assert_allclose(y.astype(jnp.float32), X * PHI, atol=atol)


def test_slope_of_gelu():
  slope = jax.vmap(jax.grad(gelu))(jnp.asarray(X, jnp.float32))
  density = np.exp(-(X**2) / 2) / math.sqrt(2 * math.pi)
  np.testing.assert_allclose(slope, PHI + X * density, atol=2e-6)

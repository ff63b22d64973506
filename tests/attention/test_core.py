"""The softmax that dense attentions share."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.attention.core import _softmax


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 4, 5), (1, 1, 1, 1), (1, 1, 4, 0)])
def test_a_batch_or_heads_of_one_change_nothing(shape):
  scores, into = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
  weights, backward = jax.vjp(_softmax, scores)
  expected, expected_backward = jax.vjp(lambda scores: jax.nn.softmax(scores, axis=-1), scores)
  np.testing.assert_allclose(weights, expected, atol=1e-7)
  np.testing.assert_allclose(backward(into)[0], expected_backward(into)[0], atol=1e-6)


def test_they_do_stand_aside():
  program = jax.jit(_softmax).lower(jnp.zeros((7, 1, 4, 5))).as_text()
  assert re.findall(r"exponential .*tensor<(\w+)xf32>", program) == ["7x4x5"]

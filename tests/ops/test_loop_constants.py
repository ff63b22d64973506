"""A constant inside a loop is that constant, whatever it is tied to; and it does stay inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from convnn_jax.ops.loop_constants import inside

TIES = {
  "nan": jnp.full((2, 3), jnp.nan),
  "infinite": jnp.full((1,), -jnp.inf),
  "narrow": jnp.full((2,), 3, jnp.bfloat16),
  "integer": jnp.full((2, 2), -7, jnp.int32),
  "key": jax.random.key_data(jax.random.key(3)),
  "empty": jnp.zeros((0, 3)),
  "number": jnp.float32(5),
}


@pytest.mark.parametrize("tie", TIES)
def test_is_the_constant(tie):
  x = TIES[tie]
  number = inside(x, 2)
  assert (number.shape, number.dtype, number) == ((), x.dtype, 2)
  for array in (jnp.arange(4), jnp.asarray([-jnp.inf, 0.5]), jnp.eye(3, dtype=bool)):
    kept = inside(x, array)
    assert kept.dtype == array.dtype
    np.testing.assert_array_equal(kept, array)


def test_no_gradient_passes():
  assert jax.grad(lambda x: inside(x, 2.0) * x[0])(jnp.ones(3)).tolist() == [2, 0, 0]


def _constants(function):
  """Sizes of the constants of the loop of its gradient's forward pass."""
  turns = lambda x: lax.scan(lambda x, _: (jnp.sin(function(x)), None), x, None, length=3)[0].sum()
  loops = [e for e in jax.make_jaxpr(jax.grad(turns))(jnp.ones(100)).eqns if e.primitive.name == "scan"]
  return [v.aval.size for v in loops[0].invars[: loops[0].params["num_consts"]]]


def test_stays_in_a_loop_that_is_differentiated():
  """The first line is the reason for the rest: once JAX leaves constants where they are, all of this may go."""
  assert 100 in _constants(lambda x: jnp.where(x > 0, x, 0))
  assert 100 not in _constants(lambda x: jnp.where(x > 0, x, inside(x, 0)))

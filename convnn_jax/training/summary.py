"""What a model is and costs: parameter table, FLOPs, digest."""

import hashlib

import jax
import numpy as np
from flax import traverse_util


def num_params(params) -> int:
  """Number of trained values."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def flops(function, *args) -> int:
  """Floating-point operations of all matrix products and convolutions in function(*args), 2 per multiply-add.

  Counted on the traced program, bodies of loops as often as they run; elementwise work is left out, as is usual.
  """
  return flops_and_shapes(function, *args)[0]


def flops_and_shapes(function, *args):
  """`flops`, and the shapes of what function(*args) returns."""
  program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  return _count(program.jaxpr), shapes


def _count(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      depth = int(np.prod([left[axis] for axis in contracted], dtype=np.int64))
      total += 2 * depth * int(np.prod(equation.outvars[0].aval.shape, dtype=np.int64))
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape
      out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
      per_output = int(np.prod(kernel, dtype=np.int64)) // out_channels
      total += 2 * per_output * int(np.prod(equation.outvars[0].aval.shape, dtype=np.int64))
    else:
      times = params.get("length", 1) if name == "scan" else 1
      total += times * sum(_count(inner) for inner in _inner_programs(params))
  return total


def _inner_programs(params):
  for value in params.values():
    for inner in value if isinstance(value, (tuple, list)) else (value,):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        yield inner


def table(params) -> str:
  """A text table: path, shape and size of every parameter, and the total."""
  flat = traverse_util.flatten_dict(params, sep="/")
  rows = [(path, "x".join(map(str, leaf.shape)) or "1", f"{leaf.size:,}") for path, leaf in flat.items()]
  rows.append(("total", "", f"{num_params(params):,}"))
  widths = [max(len(row[column]) for row in rows) for column in range(3)]
  return "\n".join(
    f"{path:<{widths[0]}}  {shape:>{widths[1]}}  {size:>{widths[2]}}" for path, shape, size in rows
  )


def digest(params) -> str:
  """sha256 over names and bytes of all parameters: equal digests = equal models, bit for bit."""
  sha = hashlib.sha256()
  for path, leaf in sorted(traverse_util.flatten_dict(params, sep="/").items()):
    sha.update(path.encode())
    sha.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
  return sha.hexdigest()

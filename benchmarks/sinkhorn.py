"""Cost of self-optimal-transport attention against softmax attention, forward and backward, side by side.

    python -m benchmarks.sinkhorn                                  # 128 matrices of 64 x 64, 10 iterations
    python -m benchmarks.sinkhorn --tokens=196 --batch=8 --iterations=20

One forward and backward pass of each contender per round, interleaved, in one process, on the same tokens; softmax
attention is the yardstick. Prints medians, minima, the ratio of minima, temporary memory and compile time, and a last
line of JSON.
"""

import argparse
import json

import jax

from benchmarks import measure
from convnn_jax.attention import make_attention

SOT = dict(name="sot", variant="query_key")
CONTENDERS = {
  "softmax": dict(name="softmax"),
  "sot": SOT,
  "sot, log domain": SOT | dict(domain="log"),
  "sot, implicit": SOT | dict(gradient="implicit"),
}


def contender(spec: dict, x) -> measure.Compiled:
  """A compiled forward and backward pass of one attention for the tokens `x`."""
  attention = make_attention(spec | dict(dropout_rate=0.0))
  variables = jax.jit(lambda k: attention.init(k, x, train=False))(jax.random.key(0))
  return measure.gradients(lambda v, x: attention.apply(v, x, train=False), variables, x)


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--batch", type=int, default=64)
  parser.add_argument("--heads", type=int, default=2)
  parser.add_argument("--tokens", type=int, default=64)
  parser.add_argument("--width", type=int, default=128)
  parser.add_argument("--iterations", type=int, default=10)
  parser.add_argument("--regularization", type=float, default=0.1)
  parser.add_argument("--rounds", type=int, default=25)
  args = parser.parse_args()
  x = jax.random.normal(jax.random.key(1), (args.batch, args.tokens, args.width))
  contenders = {}
  for name, spec in CONTENDERS.items():
    own = {} if name == "softmax" else dict(iterations=args.iterations, regularization=args.regularization)
    contenders[name] = contender(spec | own | dict(num_heads=args.heads), x)
  seconds = measure.interleave(contenders, args.rounds)
  measure.print_side_by_side(contenders, seconds)
  print(json.dumps({**measure.side_by_side(contenders, seconds), **vars(args), **measure.environment()}))


if __name__ == "__main__":
  main()

"""Cost of one optimiser step for the words of config.model.scan_layers.

    python -m benchmarks.scan_layers                         # ViT-Tiny 224/16, batch 16: softmax, convnn k=9 and k=25
    python -m benchmarks.scan_layers --models=softmax --words=dots,full,unrolled

Interleaved in one process, as in benchmarks.train_step; the first contender is the yardstick.
"""

import argparse
import json

from benchmarks import measure
from benchmarks.train_step import TrainStep

MODELS = {
  "softmax": ("configs/vit_softmax.py", []),
  "k9": ("configs/convnn_k9.py", []),
  "k25": ("configs/convnn_k9.py", ["--config.model.attention.num_neighbors=25"]),
}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--words", default="dots")
  parser.add_argument("--models", default=",".join(MODELS))
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  contenders = {}
  for word in args.words.split(","):
    for name in args.models.split(","):
      path, overrides = MODELS[name]
      words = [f"--config.batch_size={args.batch}", f"--config.model.scan_layers={word}"]
      contenders[f"{name} {word}"] = TrainStep(path, [*words, *overrides])
  seconds = measure.interleave(contenders, args.rounds)
  measure.print_side_by_side(contenders, seconds)
  print(
    json.dumps({"batch": args.batch, **measure.side_by_side(contenders, seconds), **measure.environment()})
  )


if __name__ == "__main__":
  main()

"""Cost of one optimiser step for each word of config.model.scan_layers.

    python -m benchmarks.scan_layers                         # ViT-Tiny 224/16, batch 16: softmax, convnn k=9 and k=25
    python -m benchmarks.scan_layers --words=unrolled,dots,full --rounds=7

One step of each model and word per round, interleaved, in one process; the first is the yardstick. Prints medians,
minima, their ratio, temporary memory and compile time.
"""

import argparse
import os
import statistics

from benchmarks.train_step import Contender

MODELS = {
  "softmax": ("configs/vit_softmax.py", []),
  "convnn k=9": ("configs/convnn_k9.py", []),
  "convnn k=25": ("configs/convnn_k9.py", ["--config.model.attention.num_neighbors=25"]),
}


def main() -> None:
  """Measures and prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--words", default="dots,unrolled")
  parser.add_argument("--models", default=",".join(MODELS))
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--rounds", type=int, default=7)
  args = parser.parse_args()
  contenders = {}
  for word in args.words.split(","):
    for name in args.models.split(","):
      path, overrides = MODELS[name]
      words = [f"--config.batch_size={args.batch}", f"--config.model.scan_layers={word}"]
      contenders[f"{name}, {word}"] = Contender(path, [*words, *overrides])
  for number in range(args.rounds + 1):  # one round to warm up
    for contender in contenders.values():
      contender.step(count=number >= 1)
  first = min(next(iter(contenders.values())).seconds)
  print(f"{'model, word':<24}{'median ms':>11}{'min ms':>9}{'ratio':>8}{'temp MB':>9}{'compile s':>11}")
  for name, contender in contenders.items():
    print(
      f"{name:<24}{1e3 * statistics.median(contender.seconds):>11.0f}{1e3 * min(contender.seconds):>9.0f}"
      f"{min(contender.seconds) / first:>8.2f}{contender.temp_bytes / 1e6:>9.0f}{contender.compile_seconds:>11.1f}"
    )
  print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
  main()

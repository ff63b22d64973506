"""Writes the headline of a file of results into README.md.

python -m benchmarks.run --suite=cpu --only=headline --out=benchmarks/results/DATE-cpu-headline.json
python -m benchmarks.readme benchmarks/results/DATE-cpu-headline.json
"""

import json
import pathlib
import sys
import textwrap

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->"
# key of the file -> what the reader sees; ours over theirs
WORDS = {
  "convnn_k9_train_vs_softmax": "training step, `convnn` with k = 9 / `softmax`",
  "convnn_k25_train_vs_softmax": "training step, `convnn` with k = 25 / `softmax`",
  "convnn_k9_train_vs_torch_literal": "training step, `convnn` with k = 9 / the layer written down in PyTorch",
  "convnn_k9_inference_vs_torch_literal": "inference, `convnn` with k = 9 / the layer written down in PyTorch",
  "softmax_train_vs_torch": "training step, `softmax` / transformers' ViT (PyTorch)",
  "sinkhorn_vs_log_unrolled": "Sinkhorn, forward and backward / its logarithmic form written down",
  "swin_t_train_vs_torch": "training step, Swin-T / transformers' Swin-T (PyTorch)",
}


def table(results: dict) -> str:
  """The ratios of a file as Markdown, without those of noisy rows, and where they come from."""
  noisy = {
    row["headline"] for row in results["rows"] if any(t["noisy"] for t in row.get("timing", {}).values())
  }
  lines = ["| time of | ratio |", "|---|---|"]
  lines += [f"| {WORDS[key]} | {ratio:.2f} |" for key, ratio in results["ratios"].items() if key not in noisy]
  megabytes = ", ".join(f"{key} {size / 1e6:.0f}" for key, size in results["temp_bytes"].items())
  machine = f"{results['processor']}, {results['cores']} cores, jax {results['versions']['jax']}"
  about = (
    f"Below 1 is faster. ViT-Tiny 224/16, batch 16, 3 heads, float32; Swin-T: batch 8. {machine},"
    f" {results['date'].split()[0]}, commit {results['commit']}."
    f" Temporary memory of a training step in MB: {megabytes}."
  )
  return "\n".join([*lines, "", textwrap.fill(about, 120), ""])


def written(text: str, results: dict) -> str:
  """README's text with the table between its two marks."""
  before, rest = text.split(BEGIN)
  return before + BEGIN + table(results) + END + rest.split(END)[1]


def main() -> None:
  """Changes README.md."""
  results = json.loads(pathlib.Path(sys.argv[1]).read_text())
  README.write_text(written(README.read_text(), results))


if __name__ == "__main__":
  main()

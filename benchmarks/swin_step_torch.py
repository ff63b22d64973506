"""The PyTorch side of benchmarks/swin_step.py: SwinForImageClassification of transformers, eager, random weights.

Started by it, with one argument of JSON; writes a line about itself, then one line per line of input, after a step.
"""

import json
import sys
import time

import torch
import transformers

from convnn_jax.host_memory import keep_freed_memory


def main() -> None:
  """Builds the model, then answers."""
  words = json.loads(sys.argv[1])
  kept = words["memory"] == "kept" and keep_freed_memory()  # as ours does
  answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not look like an answer
  torch.set_num_threads(words["threads"])
  torch.manual_seed(0)
  config = transformers.SwinConfig(**words["config"])
  model = transformers.SwinForImageClassification(config).train()
  # The fused update is the fastest of the three that PyTorch has.
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=words["learning_rate"], weight_decay=words["weight_decay"], fused=True
  )
  side = config.image_size
  images = torch.randn(words["batch"], 3, side, side)
  labels = torch.randint(config.num_labels, (words["batch"],))

  def step() -> float:
    optimizer.zero_grad(set_to_none=True)
    loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
    loss.backward()
    optimizer.step()
    return loss.item()

  about = {
    "num_params": sum(leaf.numel() for leaf in model.parameters()),
    "threads": torch.get_num_threads(),
    "memory_kept": kept,
    "torch": torch.__version__,
    "transformers": transformers.__version__,
  }
  print(json.dumps(about), file=answers, flush=True)
  for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    loss = step()
    taken = {
      "seconds": time.perf_counter() - start,
      "cpu_seconds": time.process_time() - cpu_start,
      "loss": loss,
    }
    print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
  main()

"""A PyTorch contender in a process of its own: answers each line of its input by the seconds of one step.

    python -m benchmarks.peers.worker train convnn 197 16 9    # work, model, tokens, batch, k
    python -m benchmarks.peers.worker infer softmax 197 16
    python -m benchmarks.peers.worker layer local 197 16       # one layer of peers/layers.py, forward and backward

Eager on a CPU, which is faster there; compiled, with bfloat16 autocast, on a GPU.
"""

import contextlib
import sys
import time

import torch

from benchmarks.peers import layers, vit
from convnn_jax.host_memory import keep_freed_memory

SIZES = {"197": dict(image=224, patch=16), "65": dict(image=32, patch=4)}


class _Logits(torch.nn.Module):
  """The logits of a transformers model, as a function of images."""

  def __init__(self, model):
    super().__init__()
    self.model = model

  def forward(self, images):
    return self.model(images).logits


def make_model(name: str, tokens: str, k: int):
  """(model, image size)."""
  if name == "transformers_vit":
    from transformers import ViTConfig, ViTForImageClassification

    size = SIZES[tokens]
    config = ViTConfig(
      hidden_size=192,
      num_hidden_layers=12,
      num_attention_heads=3,
      intermediate_size=768,
      hidden_dropout_prob=0.1,
      attention_probs_dropout_prob=0.1,
      qkv_bias=False,
      image_size=size["image"],
      patch_size=size["patch"],
      num_labels=10,
    )
    return _Logits(ViTForImageClassification(config)), size["image"]
  return vit.ViT(name, k=k, **SIZES[tokens]), SIZES[tokens]["image"]


def make_step(work: str, name: str, tokens: str, batch: int, k: int = 0):
  """A function that does one step and waits for it."""
  if work == "layer":
    return make_layer_step(name, int(tokens), batch)
  on_gpu = torch.cuda.is_available()
  device = "cuda" if on_gpu else "cpu"
  torch.manual_seed(0)
  model, size = make_model(name, tokens, k)
  model = model.to(device)
  images = torch.randn(batch, 3, size, size, device=device)
  labels = torch.randint(10, (batch,), device=device)
  run = torch.compile(model) if on_gpu else model
  cast = lambda: torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()
  wait = torch.cuda.synchronize if on_gpu else lambda: None
  if work == "infer":
    model.eval()

    def infer():
      with torch.inference_mode(), cast():
        run(images)
      wait()

    return infer
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

  def train():
    optimizer.zero_grad(set_to_none=True)
    with cast():
      loss = vit.loss(run(images), labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()
    wait()

  return train


def make_layer_step(name: str, tokens: int, batch: int):
  """The same for one layer on a CPU: forward, and backward to its input and parameters."""
  torch.manual_seed(0)
  layer = layers.make_layer(name, tokens=tokens)
  x = torch.randn(batch, tokens, 192, requires_grad=True)
  cotangent = torch.randn(batch, tokens, 192)

  def step():
    x.grad = None
    layer.zero_grad(set_to_none=True)
    layer(x).backward(cotangent)

  return step


def main() -> None:
  """Steps as they are asked for."""
  work, name, tokens, batch, *k = sys.argv[1:]
  keep_freed_memory()  # as ours does; PyTorch too is faster with it
  answers = sys.stdout
  sys.stdout = sys.stderr  # what libraries print must not look like an answer
  step = make_step(work, name, tokens, int(batch), *map(int, k))
  print("ready", file=answers, flush=True)
  for _ in sys.stdin:
    begun = time.perf_counter()
    step()
    print(time.perf_counter() - begun, file=answers, flush=True)


if __name__ == "__main__":
  main()

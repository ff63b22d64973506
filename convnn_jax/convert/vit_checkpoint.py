"""ViT checkpoints of the published JAX code, big_vision, timm and Hugging Face into our parameters and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from convnn_jax.convert import vit_names
from convnn_jax.convert.fitting import (
  any_name,
  check_sizes,
  check_writable,
  complete,
  depth,
  kernel_shape,
  left_out,
  read_with,
)
from convnn_jax.convert.rules import to_source
from convnn_jax.errors import UserError, choose

_TORCH = ("timm", "huggingface")
# What is not in the files: how the code that they come from computes.
_HABITS = {
  "timm": ("gelu", 1e-6),
  "huggingface": ("gelu", 1e-12),
  "google": ("gelu_tanh", 1e-6),
  "google_linen": ("gelu_tanh", 1e-6),
  "big_vision": ("gelu_tanh", 1e-6),
}
# What models in every file of them are.
_WRITABLE = {
  "attention.name": ("softmax",),
  "activation": ("gelu", "gelu_tanh"),
  "position_embedding": ("learned",),
  "num_positions": (0,),
  "final_norm": ("layer_norm", "after_pooling"),
}


def read_vit(
  state: Mapping[str, np.ndarray], spec: Mapping[str, Any], image: tuple[int, int], shapes
) -> tuple[dict[str, Any], list[str]]:
  """Our parameters from a checkpoint of a Vision Transformer.

  Args:
    state: its state dict; its names tell whose it is.
    spec: our model's spec, as for make_model.
    image: rows and columns in pixels.
    shapes: our parameters or their shapes.

  Returns:
    The parameters, and a line about each thing that a user should know: resized positions, a new head, what is left
    out, what the config says otherwise than the source's code.

  Raises:
    UserError: names that are not known, parameters without a source, shapes that do not fit.
  """
  spec = complete("vit", spec)
  count = len(state)
  state, source = vit_names.recognised(state)
  said = [f"read {count} arrays in the names of {source} code", *notes(spec, source)]
  if source in _TORCH and (heads := spec["attention"].get("num_heads")):
    said.append(f"the file does not tell the number of heads; the config has {heads}")
  state, more = left_out(state, vit_names.LEFT_OUT)
  said += more
  if any(name in state for name in vit_names.BEFORE_HEAD):  # the head lies on what is not there
    heads = [name for name in state if name.startswith(("head.", "head/"))]
    state, more = left_out(state, (*vit_names.BEFORE_HEAD, *heads))
    said += more
  _check(state, spec, source)
  params, more = read_with(_rules(spec, source), state, spec, image, shapes)
  return params, said + more


def write_vit(params, spec: Mapping[str, Any], source: str = "timm") -> dict[str, np.ndarray]:
  """A state dict from our parameters.

  Args:
    params: of a ViT with learned positions.
    spec: its spec.
    source: whose names: "timm", "huggingface", "google" (the numbering of the released files), "google_linen" (that of
      its code today) or "big_vision".

  Raises:
    UserError: unknown source, a model that its code does not compute, or parameters that it has no name for.
  """
  spec = complete("vit", spec)
  choose("source of checkpoints", source, _HABITS)
  check_writable(spec, _WRITABLE, source)
  return vit_names.written(to_source(params, _rules(spec, source)), source)


def notes(spec: Mapping[str, Any], source: str) -> list[str]:
  """A line if a source's code computes otherwise than the model of a complete spec, though no file tells it."""
  activation, epsilon = _HABITS[source]
  if (spec["activation"], spec["norm_epsilon"]) == (activation, epsilon):
    return []
  return [
    f"{source} code computes with model.activation={activation}, model.norm_epsilon={epsilon:g}; the config has"
    f" {spec['activation']}, {spec['norm_epsilon']:g}: logits differ a little"
  ]


def _rules(spec, source):
  if source in _TORCH:
    behind_mean = (spec.get("pooling"), spec.get("final_norm")) == ("mean", "after_pooling")
    return vit_names.torch_rules("fc_norm" if behind_mean else "norm")
  return vit_names.jax_rules()


def _check(state, spec, source) -> None:
  """What the whole file shows at once, before names are translated one by one."""
  torch = source in _TORCH
  first = "blocks.0." if torch else "Transformer/encoderblock_0/"
  block = re.escape(first).replace("0", r"(\d+)")
  query = "MultiHeadDotProductAttention_0/query/"
  kernel = kernel_shape(state, "patch_embed.proj.weight" if torch else "embedding/kernel")
  width, patch = (kernel[0], kernel[2]) if torch else (kernel[3], kernel[0])
  found = {"width": width, "patch_size": patch}
  hidden = np.shape(state.get(first + ("mlp.fc1.bias" if torch else "MlpBlock_0/Dense_0/bias")))
  if hidden:
    found["mlp_dim"] = hidden[0]
  heads = np.shape(state.get(f"{first}{query}kernel"))
  if len(heads) == 3:
    found["attention.num_heads"] = heads[1]
  biases = (
    r"attn\.(qkv\.bias|q_bias|v_bias|(query|key|value)\.bias)" if torch else r".*/(query|key|value)/bias"
  )
  found["attention.qkv_bias"] = any_name(state, block + biases)
  check_sizes(found | dict(depth=depth(state, block)), spec)
  token = bool({"cls_token", "cls"} & state.keys())
  pools = [name for name in state if name.startswith(("MAPHead_0/", "attn_pool."))]
  if token and "fc_norm.weight" in state:
    pools.append("fc_norm.weight")
  if pools:
    raise UserError(
      f"The checkpoint pools its tokens in a way that model 'vit' does not have ({pools[0]}); use one that reads the"
      " class token, or has none and takes the mean."
    )
  legal = {
    "pooling": ("cls", "mean_all") if token else ("mean",),
    "position_embedding": ("learned",),
    "patch_norm": ("none",),
    "final_norm": ("after_pooling",) if "fc_norm.weight" in state else ("layer_norm", "after_pooling"),
  }
  wrong = [f"--config.model.{field}={words[0]}" for field, words in legal.items() if spec[field] not in words]
  if wrong:
    raise UserError(
      f"For this checkpoint the config needs {' '.join(wrong)}; configs/vit_finetune.py has it."
    )

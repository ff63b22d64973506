"""Modules, options and values of the published ConvNN code.

Source: Kang et al., "Attention Via Convolutional Nearest Neighbors": the final code, and the experiment versions
before it (modules named `hist:` or `(hist)`).
"""

from convnn_jax.convert.options import (
  FLAG,
  INTEGER,
  LABELS,
  NUMBER,
  NUMBER_OR_NULL,
  OPTIONS,
  SIZES,
  Vocabulary,
)

# Published words -> ours.
_SIMILARITIES = {"matmul": "dot", "cosine": "cosine", "euclidean": "euclidean"}
_CONVOLUTIONS = {
  "depthwise": "depthwise",
  "standard": "standard",
  "depthwise-separable": "depthwise_separable",
}
_WEIGHTINGS = {"softmax_topk": "softmax", "similarity": "similarity"}
_WEIGHTINGS |= {"softmax_full_row": "full_softmax", "sum_normalised": "sum"}
_WORDS = {
  "sampling_type": {"all": "all", "random": "random", "spatial": "spatial"},
  "magnitude_type": _SIMILARITIES,
  "similarity": _SIMILARITIES,  # where a version ignored its own flag; goes before magnitude_type
  "convolution_type": _CONVOLUTIONS,
  "projection": {"kqv": "qkv", "kq": "qk", "v": "v", "none": "none"},
  "weighting": _WEIGHTINGS,
  "head_merge": {"correct": "correct", "upstream_scramble": "scramble", "n/a": "correct"},
  "self_mask": {"strict": "strict", "upstream": "weak", "n/a": "strict"},
  "sample_coords": {"token": "token", "rank": "rank", "n/a": "token"},
  "layer": {
    "Attention": "MultiHeadAttention",
    "ConvNNAttention": "MultiHeadConvNNAttention",
    "KvtAttention": "KvtAttention",
    "BranchAttention": "BranchingAttention",
    "BranchConv": "BranchingConv",
  },
  "x_layout": {"NCHW": "NCHW"},
}
_TYPES = {
  **dict.fromkeys(("d_hidden", "num_heads", "K", "num_samples", "sample_padding", "v_out"), INTEGER),
  **dict.fromkeys(("d_mlp", "kernel_size", "patch_size", "num_layers", "num_classes"), INTEGER),
  **dict.fromkeys(("coordinate_encoding", "softmax_topk_val", "bias", "attention_bias"), FLAG),
  **dict.fromkeys(("linear_bias", "conv_bias"), FLAG),
  **dict.fromkeys(("temperature", "branch_ratio"), NUMBER),
  **dict.fromkeys(("qkv_bias", "proj_bias"), FLAG),
  **dict.fromkeys(("self_fill", "qk_scale"), NUMBER_OR_NULL),
  "convnn": OPTIONS,
  "img_size": SIZES,
}
# These change nothing in evaluation, either.
_LABELS = LABELS | {
  "experiment",
  "seq_length",
  "attention_dropout_after_conv",
  "dropout",
  "attention_dropout",
}

_HEADS = {"d_hidden", "num_heads"}
_CONVNN = _HEADS | {"K", "sampling_type", "num_samples", "sample_padding", "magnitude_type", "bias"}
_CONVNN |= {"coordinate_encoding", "convolution_type", "softmax_topk_val", "head_merge", "self_mask"}
_CONVNN |= {"sample_coords", "similarity", "projection", "weighting", "temperature", "self_fill"}
_CONVNN |= {"linear_bias", "conv_bias"}
_CONV1D = _HEADS | {"kernel_size", "head_merge", "bias"}
_BRANCHING = _CONVNN | {"kernel_size", "branch_ratio", "attention_bias", "convnn"}
_KVT = _HEADS | {"K", "qkv_bias", "proj_bias", "qk_scale"}
_BLOCK = _BRANCHING | _KVT | {"layer", "d_mlp"}
_VIT = _BLOCK | {"img_size", "patch_size", "num_layers", "num_classes", "x_layout"}

_MODULES = {
  "MultiHeadConvNNAttention": _CONVNN,
  "MultiHeadAttention": _HEADS | {"bias", "linear_bias", "attention_bias"},
  "MultiHeadConv1dAttention": _CONV1D,
  "BranchingConv": _BRANCHING,
  "BranchingAttention": _BRANCHING,
  "BranchingConv(hist)": _BRANCHING,
  "BranchingAttention(hist)": _BRANCHING,
  "hist:MultiHeadConvNNAttention": _CONVNN,
  "hist:MultiHeadConvNNAttention_Modified": _CONVNN | {"v_out"},
  "hist:MultiHeadConvNNAttention_Depthwise": _CONVNN,
  "hist:MultiHeadConvNN_Same_KVT_Attention": _CONVNN,
  "EncoderBlock": _BLOCK,
  "ViT": _VIT,
}
PUBLISHED = Vocabulary(_MODULES, _WORDS, _TYPES, _LABELS)

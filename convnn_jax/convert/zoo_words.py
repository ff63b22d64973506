"""Modules, options and values of the comparison attentions, of the attention study, and of the models around them.

Sources: KVT (k-NN attention), local-attention (lucidrains), the Sparse Transformer as used by ConvNN, NATTEN, the ViT
of the published ConvNN comparison (`ConvNNViT`), vit-pytorch (vit and deepvit), fkodom/transformer-from-scratch, and
holestine/Attention (CNN, Hybrid, protocol).
"""

from convnn_jax.convert.options import (
  FLAG,
  FLAG_OR_NULL,
  INTEGER,
  INTEGER_OR_NULL,
  INTEGER_OR_TWO,
  LABELS,
  NUMBER,
  NUMBER_OR_NULL,
  NUMBER_OR_OFF,
  OPTIONS,
  SIZES,
  TWO_INTEGERS,
  Vocabulary,
)

# Published words -> ours.
_PATTERNS = {"all": "all", "local": "local", "strided": "strided"}
_POSITIONS = {"standard": "sincos", "upstream": "sincos_one_frequency"}
_WORDS = {
  "attn_mode": _PATTERNS,
  "mode": _PATTERNS,
  "sparse_mode": _PATTERNS,
  "rotary_alignment": {"centered": "centered", "upstream": "upstream"},
  "key_mask": {"none": "none", "None": "none", "given in aux:key_mask": "given"},
  "layer": {
    "Attention": "MultiHeadAttention",
    "KvtAttention": "KvtAttention",
    "LocalAttention": "LocalAttention",
    "SparseAttention": "SparseAttention",
  },
  "x_layout": {"NCHW": "NCHW"},
  "variant": _POSITIONS,
  "positional": _POSITIONS,
  "pool": {"cls": "cls", "mean": "mean"},
  "activation": {"gelu": "gelu"},
  "output": {"log_softmax": "log_softmax"},
  "optimizer": {"Adam(b1=.9,b2=.999,eps=1e-8)": "adam"},
  "loss": {"mean NLL of log_softmax": "cross_entropy"},
}
_TYPES = {
  **dict.fromkeys(("num_heads", "heads", "dim_head", "topk", "window_size", "look_backward"), INTEGER),
  **dict.fromkeys(("d_hidden", "embed_dim", "kernel_size", "kernel", "stride", "dilation", "K"), INTEGER),
  **dict.fromkeys(("num_layers", "d_mlp", "sparse_context_window", "num_classes", "channels"), INTEGER),
  **dict.fromkeys(("depth", "mlp_dim", "hidden_dim", "seq_len", "dim_in", "dim_q", "dim_k"), INTEGER),
  **dict.fromkeys(("dim_model", "dim_feedforward", "num_encoder_layers", "num_decoder_layers"), INTEGER),
  **dict.fromkeys(
    ("in_channels", "fc_in", "fc_hidden", "image_pixels", "steps_per_epoch", "epochs"), INTEGER
  ),
  **dict.fromkeys(("patch_size", "image_size"), INTEGER_OR_TWO),
  **dict.fromkeys(("dim", "look_forward", "local_attn_ctx", "context"), INTEGER_OR_NULL),
  **dict.fromkeys(("qk_scale", "scale", "xpos_scale_base"), NUMBER_OR_NULL),
  **dict.fromkeys(("attn_drop", "proj_drop", "attention_dropout", "emb_dropout", "lr", "gamma"), NUMBER),
  **dict.fromkeys(("qkv_bias", "proj_bias", "causal", "is_causal", "prenorm", "qk_rmsnorm"), FLAG),
  **dict.fromkeys(("gate", "gate_values_per_head", "autopad", "rotary", "mask_padding"), FLAG),
  **dict.fromkeys(("shared_qk", "use_xpos", "cls_token", "batch_axis", "norm_in_head"), FLAG),
  "exact_windowsize": FLAG_OR_NULL,
  "dropout": NUMBER_OR_OFF,
  "conv_channels": TWO_INTEGERS,
  "img_size": SIZES,
  "net": OPTIONS,
}
_LABELS = LABELS | {"y"}

_CORE = {"window_size", "causal", "look_backward", "look_forward", "exact_windowsize", "autopad", "scale"}
_CORE |= {"shared_qk", "dim", "dim_head", "heads", "rotary", "use_xpos", "xpos_scale_base", "key_mask"}
_CORE |= {"mask_padding", "rotary_alignment", "dropout"}
_KVT = {"dim", "num_heads", "topk", "qkv_bias", "proj_bias", "qk_scale", "attn_drop", "proj_drop"}
_SPARSE = {"d_hidden", "num_heads", "attn_mode", "mode", "local_attn_ctx", "context", "attention_dropout"}
_NATTEN = {"embed_dim", "num_heads", "kernel_size", "kernel", "stride", "dilation", "is_causal", "qkv_bias"}
_CONVNN_VIT = {"layer", "patch_size", "num_layers", "num_heads", "d_hidden", "d_mlp", "dropout", "K"}
_CONVNN_VIT |= {"sparse_mode", "sparse_context_window", "img_size", "num_classes", "x_layout", "window_size"}
_CONVNN_VIT |= {"dim_head", "mask_padding", "rotary_alignment", "qkv_bias", "proj_bias", "qk_scale"}
_CONVNN_VIT |= {"attention_dropout"}

_VIT_ATTENTION = {"dim", "heads", "dim_head", "dropout"}
_TOWER = _VIT_ATTENTION | {"num_classes", "depth", "mlp_dim", "pool", "emb_dropout", "x_layout"}
# The last three tell how a checkpoint is written, which changed from version to version.
_TOWER |= {"cls_token", "batch_axis", "norm_in_head"}
_VIT = _TOWER | {"image_size", "patch_size", "channels"}
_CONVS = {"num_classes", "in_channels", "conv_channels", "output", "x_layout"}
_CNN = _CONVS | {"fc_in", "fc_hidden"}
_LAYER = {"dim_model", "num_heads", "dim_feedforward", "dropout"}

_MODULES = {
  "KvtAttention": _KVT,
  "LocalAttention": _CORE | {"prenorm", "qk_rmsnorm", "qk_scale", "gate", "gate_values_per_head"},
  "LocalAttention.core": _CORE,
  "SparseAttention": _SPARSE,
  "NeighborhoodAttention1D": _NATTEN | {"proj_bias", "qk_scale", "proj_drop"},
  "ConvNNViT": _CONVNN_VIT,
  "vit.Attention": _VIT_ATTENTION,
  "deepvit.Attention": _VIT_ATTENTION,
  "vit.FeedForward": {"dim", "hidden_dim", "dropout", "activation"},
  "vit.ViT": _VIT,
  "deepvit.DeepViT": _VIT,
  "CNN": _CNN,
  "Hybrid": _TOWER | _CONVS | {"image_pixels"},
  "scaled_dot_product_attention": set(),
  "position_encoding": {"seq_len", "dim_model", "variant"},
  "MultiHeadAttention": {"num_heads", "dim_in", "dim_q", "dim_k"},
  "TransformerEncoderLayer": _LAYER,
  "TransformerDecoderLayer": _LAYER,
  "TransformerEncoder": _LAYER | {"num_layers", "positional"},
  "TransformerDecoder": _LAYER | {"num_layers", "positional"},
  "Transformer": _LAYER | {"num_encoder_layers", "num_decoder_layers", "positional"},
  "protocol": {"optimizer", "lr", "gamma", "steps_per_epoch", "epochs", "loss", "dropout", "net"},
}
PUBLISHED = Vocabulary(_MODULES, _WORDS, _TYPES, _LABELS)

"""What may occur in the options of the published transport and compact transformers."""

from convnn_jax.convert.options import (
  FLAG,
  INTEGER,
  LABELS,
  NUMBER,
  NUMBER_OR_NULL,
  OPTIONS,
  OPTIONS_OR_NULL,
  SIDES,
  Vocabulary,
)

_WORDS = {
  "metric": {"euclidean": "euclidean", "cosine": "cosine"},
  "cost_scale": {word: word for word in ("row_max", "sample_max", "global_max", "none")} | {"None": "none"},
  "marginal": {"uniform": "uniform", "unit": "unit"},
  "link": {"sigmoid": "sigmoid", "exp": "exp"},
  "variant": {"sot_q": "query", "sot_qk": "query_key", "sot_qkt": "query_key_transposed"},
  "post": {"softmax": "softmax", "none": "none", "None": "none", "row_norm": "rows"},
  "positional_embedding": {"learnable": "learned", "sine": "sincos", "none": "none"},
  "activation": {"ReLU": "relu", "relu": "relu", "None": "none", "none": "none", "null": "none"},
}
_TYPES = {
  **dict.fromkeys(
    ("iterations", "heads", "dim", "mlp_dim", "num_heads", "num_layers", "embedding_dim"), INTEGER
  ),
  **dict.fromkeys(
    ("num_classes", "kernel_size", "n_conv_layers", "stride", "padding", "patch_size"), INTEGER
  ),
  **dict.fromkeys(("n_input_channels", "n_output_channels", "in_planes", "num_tokens"), INTEGER),
  **dict.fromkeys(("sequence_length", "epochs", "warmup"), INTEGER),
  **dict.fromkeys(("reg", "mask_value", "diag_value", "mlp_ratio", "lr"), NUMBER),
  **dict.fromkeys(("dropout", "attention_dropout", "stochastic_depth", "drop_path"), NUMBER),
  **dict.fromkeys(("stop_threshold", "scale"), NUMBER_OR_NULL),
  **dict.fromkeys(("max_scale", "grad_through_max", "mask_diag", "qkv_bias", "proj_bias"), FLAG),
  **dict.fromkeys(("conv_bias", "max_pool", "cross"), FLAG),
  **dict.fromkeys(("img_size", "old_grid", "new_grid", "image", "shape"), SIDES),
  "sot": OPTIONS,
  "attention": OPTIONS_OR_NULL,
}

_TRANSPORT = {"metric", "cost_scale", "marginal", "link", "reg", "iterations", "stop_threshold", "max_scale"}
_TRANSPORT |= {"grad_through_max", "mask_diag", "mask_value", "diag_value", "cross", "shape"}
_ATTENTION = {"dim", "heads", "qkv_bias", "proj_bias", "attention_dropout", "dropout"}
_TOKENIZER = {"kernel_size", "stride", "padding", "n_conv_layers", "n_input_channels", "in_planes"}
_MODEL = {"embedding_dim", "img_size", "mlp_ratio", "num_classes", "num_heads", "num_layers", "attention"}
_MODEL |= {"positional_embedding", "sequence_length", "n_input_channels", "kernel_size"}
_MODEL |= {"dropout", "attention_dropout", "stochastic_depth"}
PUBLISHED = Vocabulary(
  {
    "sot_transform": _TRANSPORT,
    "sot_attention": _ATTENTION | {"variant", "post", "scale", "sot"},
    "attention": _ATTENTION,
    "tokenizer": _TOKENIZER | {"n_output_channels", "activation", "conv_bias", "max_pool", "image"},
    "seq_pool": {"dim"},
    "encoder_block": {"dim", "heads", "mlp_dim", "drop_path", "dropout", "attention_dropout", "attention"},
    "cct": _MODEL | _TOKENIZER,
    "cvt": _MODEL | {"patch_size"},
    "vit_lite": _MODEL | {"patch_size"},
    "resize_pos_embed": {"dim", "old_grid", "new_grid", "num_tokens"},
    "lr_per_epoch": {"epochs", "warmup", "lr"},
  },
  _WORDS,
  _TYPES,
  LABELS,
)

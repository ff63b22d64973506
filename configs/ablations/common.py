"""What the experiments of the notes have in common: the first published ConvNN attention and its training set-up.

ViT-Tiny 224/16 on CIFAR-10, AdamW 1e-5 with a cosine schedule, weight decay 0.05, batch 128, 50 epochs. The attention
has biases everywhere, a standard convolution, cosine similarity, and two accidents of the published code: a token's
similarity to itself is 1.1 (`self_fill`), and heads are merged by a reshape that mixes tokens and channels, also with
one head (`scrambled_heads`; not where heads are not split). Published figures were measured with them; without them:

    --config.model.attention.quirks="()"
"""

from configs import base


def convnn(**fields):
  """The spec of the first published attention, with other values of some fields."""
  spec = dict(
    name="convnn",
    num_heads=3,
    num_neighbors=9,
    similarity="cosine",
    weighting="similarity",
    convolution="standard",
    dropout_rate=0.1,
    qkv_bias=True,
    out_bias=True,
    convolution_bias=True,
    quirks=("self_fill", "scrambled_heads"),
  )
  return spec | fields


def experiment(data, attention):
  """The config of one experiment."""
  config = base.get_config()
  config.batch_size = config.eval_batch_size = 128
  config.num_epochs = 50
  config.optimizer.update(learning_rate=1e-5, weight_decay=0.05, schedule="cosine")
  config.model.attention = attention
  return base.with_data(config, data)

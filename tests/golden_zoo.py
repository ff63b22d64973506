"""Cases of the comparison attentions, of the attention study and of the encoder-decoder transformer."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from golden_case import Loaded, load_module, params_of
from ml_collections import ConfigDict

from configs import base
from convnn_jax.attention.local import local_scores, pad_tokens
from convnn_jax.convert import study, zoo
from convnn_jax.convert.rules import to_flax, to_source
from convnn_jax.convert.zoo_words import PUBLISHED
from convnn_jax.errors import unknown_name
from convnn_jax.layers.pos_embed import PositionEmbedding
from convnn_jax.models.transformer import scaled_dot_product_attention
from convnn_jax.ops.masks import hidden_bias
from convnn_jax.training.losses import make_loss
from convnn_jax.training.optimizer import make_optimizer


def load_zoo(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Loaded:
  """Loads by the kind of counterpart that the conversion names."""
  options, bias = {}, None
  if "aux:key_mask" in arrays:
    options = {"key_mask": "given in aux:key_mask"}
    bias = hidden_bias(arrays["aux:key_mask"], arrays["x"].dtype)[:, None, None]
  options |= study.checkpoint_options(params_of(arrays))
  made = zoo.conversion({**config, **options})
  if made.kind == "protocol":
    return _protocol(made, config, arrays)
  if made.kind == "scores":
    return _local_core(made, arrays, bias)
  if made.kind == "function":
    return Loaded(FUNCTIONS[made.spec["name"]](made.spec), {}, ())
  probabilities = "output" in PUBLISHED.modules[config["module"]]
  leave = jax.nn.log_softmax if probabilities else lambda y: y
  return load_module(made, config, arrays, bias=bias, leave=leave)


def _single_head(spec):
  del spec
  one = lambda x: x[:, :, None]  # an axis for the head
  return lambda params, query, key, value: scaled_dot_product_attention(one(query), one(key), one(value))[
    :, :, 0
  ]


def _positions(spec):
  shape = (1, spec["num_positions"], spec["width"])
  return lambda params, x: PositionEmbedding(spec["kind"]).apply({}, jnp.zeros(shape, x.dtype))


FUNCTIONS = {"scaled_dot_product_attention": _single_head, "positions": _positions}


def _local_core(made, arrays, bias):
  def core(params, query, key, value):
    del params
    query, key, value = (jnp.swapaxes(y, 1, 2) for y in (query, key, value))
    fields = made.spec | {"scale": made.spec["scale"] or query.shape[-1] ** -0.5}
    weights = jax.nn.softmax(local_scores(query, key, bias, **fields), axis=-1)
    return jnp.einsum("bhnm,bmhd->bhnd", weights, pad_tokens(value, weights.shape[-1]))

  return Loaded(core, to_flax(params_of(arrays), made.rules, {}, ignore=made.ignore), made.rules)


def _protocol(made, config, arrays):
  """Trains: one step per batch of `x`, by the optimiser and the loss of training runs."""
  net = dict(config["net"])
  net["module"] = net["module"] if "module" in net else _module_with(net)
  inner = load_zoo(net, arrays | {"x": arrays["x"][0]})
  num_steps = config["steps_per_epoch"] * config["epochs"]
  settings = ConfigDict(base.get_config().optimizer.to_dict() | made.spec)
  optimizer, schedule = make_optimizer(settings, config["steps_per_epoch"], num_steps)
  per_example = make_loss(base.get_config().loss)
  mean_loss = lambda params, x, labels: jnp.mean(per_example(inner.run(params, x), labels))

  def step(carry, batch):
    params, state = carry
    loss, grads = jax.value_and_grad(mean_loss)(params, *batch)
    updates, state = optimizer.update(grads, state, params, value=loss)
    return (optax.apply_updates(params, updates), state), loss

  def run(params, x):
    (final, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), (x, arrays["labels"]))
    rates = jnp.stack([jnp.asarray(schedule(step), x.dtype) for step in range(num_steps)])
    # Log-probabilities, of which log_softmax changes nothing, or logits.
    return jax.nn.log_softmax(inner.run(final, x[0])), losses, rates, final

  def named(output):
    y, losses, rates, params = output
    final = {f"final_param:{name}": leaf for name, leaf in to_source(params, inner.rules).items()}
    return {"y": y, "losses": losses, "learning_rates": rates, **final}

  return inner._replace(run=run, named=named)


def _module_with(net):
  """The module of a net that does not name its own: the one that has its options."""
  for module in ("CNN", "Hybrid", "vit.ViT"):
    if net.keys() <= PUBLISHED.modules[module]:
      return module
  raise unknown_name("net of the protocol with the options", ", ".join(net), PUBLISHED.modules)

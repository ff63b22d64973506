"""Reference tables of Swin (.json): names in checkpoints, weight decay, learning rates, rates of drop path."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from configs import base, recipes
from convnn_jax.convert import swin
from convnn_jax.convert.rules import flat, to_source
from convnn_jax.convert.swin_names import from_published, to_published
from convnn_jax.errors import choose
from convnn_jax.layers.drop_path import drop_path_rates
from convnn_jax.models import make_model
from convnn_jax.training.optimizer import decay_mask
from convnn_jax.training.schedule import make_schedule

_KINDS = {
  "swin_v1": "SwinTransformer swin_v1",
  "swin_v2": "SwinTransformerV2 swin_v2",
  "swin_mlp": "SwinMLP swin_mlp",
  "fork_v1": "SwinTransformer fork_v1 + Pre MLP",
  "fork_v2": "SwinTransformerV2 fork_v2 final",
  "fork_v2_premlp": "SwinTransformerV2 fork_v2 final + Pre MLP per stage",
}


def swin_shapes(spec, side=16, classes=3, channels=3):
  """Shapes of the parameters of a model for square images."""
  model = make_model(spec, num_classes=classes)
  init = lambda k: model.init(k, jnp.zeros((1, side, side, channels)), train=False)
  return jax.eval_shape(init, jax.random.key(0))["params"]


def check_names(models):
  """Every parameter is known in every notation, and written under the name it was read from."""
  for model in models.values():
    for notation in ("timm", "hf_hub", "hf_v5_module"):
      _check_notation(model, notation)


def _check_notation(model, notation):
  rng, state, published = np.random.default_rng(0), {}, {}
  for name, entry in model.items():
    published[name] = rng.normal(size=[min(n, 6) for n in entry["shape"]])
    there = entry[notation] if isinstance(entry[notation], list) else [entry[notation]]
    state |= dict(zip(there, np.split(published[name], len(there)), strict=True))
  read, source = to_published(state)
  assert source == {"timm": "timm"}.get(notation, "huggingface")
  jax.tree.map(np.testing.assert_array_equal, read, published)
  if notation != "hf_v5_module":  # what newer versions have in memory is not written
    jax.tree.map(np.testing.assert_array_equal, from_published(published, source), state)
  assert to_published(published)[1] == "published"


def check_decay(table):
  """Which parameters weight decay changes, by their published names."""
  options = table["config"]
  for kind, expected in table["decays"].items():
    made = swin.conversion({**options, "module": choose("model", kind, _KINDS)})
    sizes = (options["img_size"], options["num_classes"], options.get("in_chans", 3))
    params = swin_shapes(made.spec, *sizes)
    mask = decay_mask("swin", params)
    fill = lambda decays, leaf: np.full(leaf.shape, decays)
    ours = to_source(jax.tree.map(fill, mask, params), made.rules)
    assert {name: bool(np.all(a)) for name, a in ours.items()} == expected, kind
    assert flat(mask).keys() == flat(params).keys()


def check_learning_rates(cases):
  """Warm-up, then cosine, step by step, by the published recipe."""
  for case in cases:
    optimizer = recipes.swin_imagenet(base.get_config()).optimizer
    optimizer.update(
      learning_rate=case["base_lr"],
      warmup_learning_rate=case["warmup_lr"],
      final_learning_rate=case["min_lr"],
      warmup_epochs=float(case["warmup_steps"]),
      learning_rate_batch=0,
    )
    schedule = make_schedule(optimizer, 1, case["total_steps"])
    ours = [float(schedule(t)) for t in case["t"]]
    np.testing.assert_allclose(ours, case["lr"], rtol=2e-5, atol=2e-9)


def check_drop_path(table):
  """{"rate/depths": rate of every block}."""
  for key, expected in table.items():
    rate, depths = key.split("/")
    np.testing.assert_allclose(drop_path_rates(float(rate), sum(json.loads(depths))), expected, atol=1e-7)


# How the name of a table begins -> its check.
TABLES = {
  "checkpoint_names": check_names,
  "weight_decay_mask": check_decay,
  "lr_schedule": check_learning_rates,
  "drop_path_rates": check_drop_path,
}


def check_of(path):
  """The check of a table, or None for files that are none."""
  return next((check for name, check in TABLES.items() if path.stem.startswith(name)), None)

"""Swin: what its parts must be equal to, and mistakes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from convnn_jax.attention import ATTENTIONS, TokenGrid
from convnn_jax.errors import UserError
from convnn_jax.models import make_model
from convnn_jax.models.encoder import EncoderBlock
from convnn_jax.models.swin_block import SwinBlock

V1 = dict(name="window", num_heads=2)
V2 = dict(name="window", num_heads=2, similarity="cosine", relative_bias="mlp")
SOFTMAX = dict(name="softmax", num_heads=2, dropout_rate=0.0)
SMALL = dict(
  name="swin", patch_size=2, width=8, depths=(2, 1), window_size=(4, 4), mlp_ratio=2.0, attention=V1
)
IMAGES = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
GOLDEN = Path(__file__).parents[1] / "golden" / "swin"


def shapes(module, x):
  return jax.eval_shape(lambda k: module.init(k, x, train=False), jax.random.key(0))["params"]


def made(module, x):
  """Random parameters, none of them 0 as some are at first."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes(module, x)
  )


def apply(module, params, x):
  return fast_jit(lambda params, x: module.apply({"params": params}, x, train=False))(params, x)


def block(attention, window=(4, 4), shift=(0, 0), **fields):
  return SwinBlock(attention, mlp_dim=16, window=window, shift=shift, **fields)


@pytest.mark.parametrize("attention", [SOFTMAX, V1], ids=["softmax", "window"])
def test_a_window_as_large_as_the_grid_is_global_attention(attention):
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  module = block(attention, window=(5, 5), shift=(2, 2))  # larger: fitted, and not shifted
  params = made(module, x)
  whole = EncoderBlock(attention, 16)
  run = fast_jit(lambda x: whole.apply({"params": params}, x, train=False, grid=TokenGrid(4, 4)))
  whole = run(x.reshape(2, 16, 8))
  np.testing.assert_allclose(apply(module, params, x), whole.reshape(x.shape), atol=1e-5)


def influence(module, params, x, *places):
  """For each token, where the output changes when it does: bool [places y x]."""
  changed = [x, *(x.at[0, at[0], at[1], 0].add(1.0) for at in places)]
  before, *after = apply(module, params, jnp.concatenate(changed))
  return np.max(np.abs(np.stack(after) - np.asarray(before)[None]), axis=-1) > 1e-6


def region(rows, columns):
  seen = np.zeros((8, 8), bool)
  seen[rows, columns] = True
  return seen


# Re-attention normalises over heads after the softmax, so that hidden pairs get the norm's bias as their weight; the
# others have no scores to hide (tested for all attentions) or consist of two.
LEFT_OUT = {"branching", "conv1d", "reattention", "sot", "spatial_mlp"}


@pytest.mark.parametrize("name", sorted(set(ATTENTIONS) - LEFT_OUT))
def test_any_attention_keeps_to_its_window(name):
  """Shifted windows of an 8 x 8 grid by (2, 2): the corner token sees its 2 x 2 corner only."""
  fields = dict(knn=dict(num_neighbors=4), convnn=dict(num_neighbors=4), local=dict(head_dim=4))
  fields |= dict(neighborhood=dict(window_size=16))
  spec = dict(name=name, num_heads=2, **fields.get(name, {}))
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  module = block(spec, shift=(2, 2))
  params = made(module, x)
  corner, edge = influence(module, params, x, (0, 0), (3, 7))
  for changed, seen in (
    (corner, region(slice(0, 2), slice(0, 2))),
    (edge, region(slice(2, 6), slice(6, 8))),
  ):
    assert changed.any()
    assert not (changed & ~seen).any()
    if name in ("softmax", "window"):
      np.testing.assert_array_equal(changed, seen)


def test_spatial_mlp_is_shifted_by_padding():
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  module = block(dict(name="spatial_mlp", num_heads=2), shift=(2, 2), shift_kind="pad")
  params = made(module, x)
  np.testing.assert_array_equal(influence(module, params, x, (3, 7))[0], region(slice(2, 6), slice(6, 8)))


@pytest.mark.parametrize("version", ["pre", "post"])
def test_a_spatial_branch_of_zeros_is_none(version):
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  plain = block(V1, norm_placement=version)
  both = block(V1, norm_placement=version, spatial_mlp=dict(name="spatial_mlp", num_heads=2))
  params = made(both, x)
  if version == "post":  # its norm comes last
    params["norm_spatial"]["bias"] *= 0
  zero = params | dict(spatial_mlp=jax.tree.map(jnp.zeros_like, params["spatial_mlp"]))
  without = {k: v for k, v in params.items() if k not in ("norm_spatial", "spatial_mlp")}
  np.testing.assert_allclose(apply(both, zero, x), apply(plain, without, x), atol=1e-5)
  # In an unshifted block it mixes across the borders of windows: (3, 3) reaches (4, 4), which reaches its window.
  (reached,) = influence(both, params, x, (3, 3))
  assert reached[4, 4]
  assert not influence(plain, without, x, (3, 3))[0, 4, 4]
  assert not reached[7, 7]


def test_padding_fills_windows_and_is_not_seen():
  x = jax.random.normal(jax.random.key(0), (1, 6, 10, 8))
  with pytest.raises(UserError, match="window of 4 x 4 tokens cannot tile a grid of 6 x 10"):
    block(SOFTMAX).init(jax.random.key(0), x, train=False)
  module = block(SOFTMAX, shift=(2, 2), padding="window")
  params = made(module, x)
  out = apply(module, params, x)
  for rows, columns in ((slice(0, 2), slice(0, 2)), (slice(2, 6), slice(6, 10))):  # by themselves
    part = x[:, rows, columns]
    alone = apply(EncoderBlock(SOFTMAX, 16), params, part.reshape(1, -1, 8))
    np.testing.assert_allclose(out[:, rows, columns], alone.reshape(part.shape), atol=1e-4)
  module = block(SOFTMAX, padding="window")
  out = apply(module, params, x)
  for rows, columns in ((slice(4, 6), slice(0, 4)), (slice(4, 6), slice(8, 10))):
    part = x[:, rows, columns]
    alone = apply(EncoderBlock(SOFTMAX, 16), params, part.reshape(1, -1, 8))
    np.testing.assert_allclose(out[:, rows, columns], alone.reshape(part.shape), atol=1e-4)
  fits = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  np.testing.assert_array_equal(
    apply(block(V1 | dict(num_heads=2), padding="window"), made(block(V1), fits), fits),
    apply(block(V1), made(block(V1), fits), fits),
  )


def test_padding_lets_a_model_take_any_image():
  model = make_model(SMALL | dict(padding="window"), num_classes=3)
  params = shapes(model, jnp.zeros((1, 18, 26, 3)))
  assert params["stage_0"]["merging"]["reduction"]["kernel"].shape == (32, 16)


def test_blocks_of_v2_start_as_the_identity():
  x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
  module = block(V2, norm_placement="post")
  params = fast_jit(lambda k: module.init(k, x, train=False))(jax.random.key(1))["params"]
  np.testing.assert_array_equal(apply(module, params, x), x)


def test_each_stage_has_its_own_values():
  attention = V2 | dict(num_heads=(2, 4), pretrained_window=((8, 8), (4, 4)))
  model = make_model(SMALL | dict(attention=attention, norm_placement="post"), num_classes=3)
  params = shapes(model, IMAGES[:1])
  heads = [params[f"stage_{i}"]["block_0"]["attention"]["logit_scale"].shape for i in (0, 1)]
  assert heads == [(2,), (4,)]
  bad = make_model(SMALL | dict(attention=V1 | dict(num_heads=(1, 2, 4))), num_classes=3)
  with pytest.raises(UserError, match=r"num_heads=\(1, 2, 4\) must be one value, or one for each of the 2"):
    shapes(bad, IMAGES[:1])


def test_eight_devices_equal_one_and_logits_are_float32():
  attention = V2 | dict(rel_pos_weight="table", qk_residual=True)
  spec = SMALL | dict(
    attention=attention, norm_placement="post", pre_mlp="stage", position_embedding="learned"
  )
  model = make_model(spec, num_classes=3)
  params = made(model, IMAGES)
  sharded = jax.device_put(
    IMAGES, NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec("data"))
  )
  value = lambda params, x: jnp.sum(jnp.sin(model.apply({"params": params}, x, train=False)))
  one, eight = (fast_jit(jax.value_and_grad(value, argnums=(0, 1)))(params, x) for x in (IMAGES, sharded))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), one, eight)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(one[1]))
  low = make_model(spec, num_classes=3, dtype=jnp.bfloat16)
  logits = apply(low, params, IMAGES)
  assert logits.dtype == jnp.float32
  assert np.corrcoef(np.ravel(logits), np.ravel(apply(model, params, IMAGES)))[0, 1] > 0.98


def test_training_draws_and_evaluation_does_not():
  model = make_model(SMALL | dict(dropout_rate=0.2, drop_path_rate=0.5), num_classes=3)
  params = made(model, IMAGES)
  rngs = lambda seed: {name: jax.random.key(seed) for name in ("dropout", "drop_path")}
  train = fast_jit(lambda seed: model.apply({"params": params}, IMAGES, train=True, rngs=rngs(seed)))
  assert not np.allclose(train(0), train(1))
  plain = make_model(SMALL, num_classes=3)
  np.testing.assert_array_equal(apply(model, params, IMAGES), apply(plain, params, IMAGES))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(attention=None), "must name an attention"),
    (dict(norm_placement="last"), "Unknown model.norm_placement 'last'"),
    (dict(pre_mlp="all"), "Unknown model.pre_mlp 'all'"),
    (dict(sw_mlp="on"), "Unknown model.sw_mlp 'on'"),
    (dict(shift="cyclic"), "Unknown model.shift 'cyclic'"),
    (dict(padding="zeros"), "Unknown model.padding 'zeros'"),
    (dict(patch_norm="batch_norm"), "Unknown patch_norm 'batch_norm'"),
    (dict(depths=()), r"model.depths=\(\) must list"),
    (dict(depths=(2, "x")), "must list the blocks of each stage"),
    (
      dict(attention=V1 | dict(num_heads=("two", 2))),
      "attention.num_heads='two' must be a number, such as 3",
    ),
    (dict(depths=(2, -1)), "must list the blocks of each stage"),
    (dict(width=0), "model.width=0"),
    (dict(window_size=(0, 0)), r"model.window_size=\(0, 0\) must be at least 1"),
    (dict(window_size=(3, 3)), "window of 3 x 3 tokens cannot tile a grid of 8 x 8"),
    (dict(patch_size=3), "patch_size=3 must divide the image of 16 x 16"),
    (dict(depths=(1, 1, 1, 1, 1)), "grid of 1 x 1 tokens cannot be halved"),
    (dict(attention=V1 | dict(num_heads=3)), "num_heads=3 must divide the width 8"),
    (dict(attention=dict(name="spatial_mlp", num_heads=2)), "in Swin use model.shift='pad'"),
    (dict(window=7), "Did you mean 'window_size'"),
  ],
)
def test_mistakes_are_named(change, message):
  with pytest.raises(UserError, match=message):
    shapes(make_model(SMALL | change, num_classes=3), IMAGES[:1])

"""The encoder-decoder transformer: plain loops, counts, masks, options."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast_jit import fast_jit
from random_params import random_params

from convnn_jax.attention import make_attention
from convnn_jax.attention.softmax import MultiHeadAttention
from convnn_jax.errors import UserError
from convnn_jax.layers.pos_embed import one_frequency_table, sincos_table
from convnn_jax.models.transformer import (
  Decoder,
  Encoder,
  Transformer,
  scaled_dot_product_attention,
  softmax_spec,
)

KEY = jax.random.key(0)
SOURCE, TARGET = (jax.random.normal(jax.random.key(i), (2, n, 8)) for i, n in ((1, 5), (2, 4)))
SMALL = dict(encoder_depth=1, decoder_depth=1, mlp_dim=16)


def count(module, *inputs):
  shapes = jax.eval_shape(lambda key: module.init(key, *inputs, train=False), KEY)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@functools.cache
def small(**fields):
  """(run(source, target, **options), model, variables); fields change what is computed, not what is learned."""
  plain, model = (Transformer(attention=softmax_spec(2), **SMALL, **some) for some in ({}, fields))
  variables = random_params(plain, SOURCE, TARGET)
  run = fast_jit(
    lambda source, target, **options: model.apply(variables, source, target, train=False, **options)
  )
  return run, model, variables


def test_scaled_dot_product_attention_is_its_plain_loop():
  query, key, value = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(SHAPES))
  bias = jnp.zeros((1, 1, 3, 5)).at[:, :, 1, 2].set(-1e9)
  out = np.asarray(fast_jit(scaled_dot_product_attention)(query, key, value, bias))
  q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
  for b, i, h in itertools.product(range(2), range(3), range(2)):
    scores = [q[b, i, h] @ k[b, j, h] / np.sqrt(4) for j in range(5)]
    weights = np.exp([s if (i, j) != (1, 2) else -np.inf for j, s in enumerate(scores)])
    expected = sum(w * v[b, j, h] for j, w in enumerate(weights / weights.sum()))
    np.testing.assert_allclose(out[b, i, h], expected, atol=1e-5)


SHAPES = ((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 7))


def test_three_equal_inputs_are_self_attention_and_two_are_cross_attention():
  fields = softmax_spec(2)
  three, one = MultiHeadAttention(**{k: v for k, v in fields.items() if k != "name"}), make_attention(fields)
  variables = random_params(three, SOURCE, SOURCE, SOURCE)
  plain = fast_jit(lambda q, k, v: three.apply(variables, q, k, v, train=False))
  itself = fast_jit(lambda x: one.apply(variables, x, train=False))(SOURCE)
  np.testing.assert_allclose(plain(SOURCE, SOURCE, SOURCE), itself, atol=1e-6)
  cross = fast_jit(lambda x, context: one.apply(variables, x, context=context, train=False))(TARGET, SOURCE)
  np.testing.assert_allclose(plain(TARGET, SOURCE, SOURCE), cross, atol=1e-6)
  assert not np.allclose(plain(TARGET, SOURCE, 2 * SOURCE), cross)
  assert not np.allclose(plain(TARGET, 2 * SOURCE, SOURCE), cross)


@pytest.mark.parametrize(
  ("width", "heads", "fields", "expected"),
  [
    (512, 6, {}, 44_327_316),
    (512, 8, {}, 44_401_152),
    (8, 2, dict(encoder_depth=1, decoder_depth=1, mlp_dim=16), 1_576),
    (12, 3, dict(encoder_depth=2, decoder_depth=1, mlp_dim=16), 4_056),
  ],
)
def test_published_parameter_counts(width, heads, fields, expected):
  model = Transformer(attention=softmax_spec(heads, width // heads), **fields)
  assert count(model, *2 * [jnp.zeros((1, 3, width))]) == expected


def test_published_parameter_counts_of_parts():
  x = jnp.zeros((1, 3, 512))
  assert count(Encoder(softmax_spec(6, 85)), x) == 18_889_692
  assert count(Encoder(softmax_spec(8)), x) == 18_914_304
  assert count(Decoder(softmax_spec(6, 85)), x, x) == 25_437_624
  assert count(Decoder(softmax_spec(8)), x, x) == 25_486_848
  fields = {name: value for name, value in softmax_spec(8).items() if name != "name"}
  assert count(MultiHeadAttention(**fields), x, x, x) == 1_050_624


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("width", [2, 8])
@pytest.mark.parametrize("heads", [1, 6])
@pytest.mark.parametrize(("batch", "n", "m"), [(1, 2, 8), (2, 8, 2)])
def test_the_output_has_the_shape_of_the_target(depth, width, heads, batch, n, m):
  attention = softmax_spec(heads, max(width // heads, 1))
  model = Transformer(attention=attention, encoder_depth=depth, decoder_depth=1, mlp_dim=2)
  source, target = jnp.zeros((batch, m, width)), jnp.zeros((batch, n, width))
  out = jax.eval_shape(lambda key: model.init_with_output(key, source, target, train=False)[0], KEY)
  assert out.shape == target.shape


def test_a_causal_decoder_does_not_look_ahead():
  changed = TARGET.at[:, 2].add(1.0)
  for mask, sees in (("causal", False), ("none", True)):
    run, _, _ = small(mask=mask)
    before, after = run(SOURCE, TARGET), run(SOURCE, changed)
    assert np.allclose(before[:, :2], after[:, :2], atol=1e-6) != sees
    assert not np.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


def test_padding_of_the_source_is_seen_by_nobody():
  run, _, _ = small()
  mask = jnp.array([[True] * 3 + [False] * 2] * 2)
  padded = SOURCE.at[:, 3:].set(9.0)
  expected = run(SOURCE[:, :3], TARGET)
  np.testing.assert_allclose(run(padded, TARGET, source_mask=mask), expected, atol=1e-5)
  assert not np.allclose(run(padded, TARGET), expected, atol=1e-2)


def test_outputs_are_three_views_of_one_thing():
  logits, probs = (small(output=output)[0](SOURCE, TARGET) for output in ("logits", "probs"))
  np.testing.assert_allclose(probs, jax.nn.softmax(logits), atol=1e-6)
  _, _, variables = small()
  decoder = dict(variables["params"]["decoder"])
  head = decoder.pop("head")
  model = Transformer(attention=softmax_spec(2), **SMALL, output="hidden")
  inner = {"params": {"encoder": variables["params"]["encoder"], "decoder": decoder}}
  hidden = np.asarray(fast_jit(lambda v: model.apply(v, SOURCE, TARGET, train=False))(inner))
  np.testing.assert_allclose(hidden @ head["kernel"] + head["bias"], logits, atol=1e-5)


def test_encode_then_decode_is_the_whole():
  run, model, variables = small()
  memory = fast_jit(lambda x: model.apply(variables, x, method="encode"))(SOURCE)
  out = fast_jit(lambda x, memory: model.apply(variables, x, memory, method="decode"))(TARGET, memory)
  np.testing.assert_allclose(out, run(SOURCE, TARGET), atol=1e-5)


def test_without_positions_the_order_of_the_source_is_lost():
  shuffled = SOURCE[:, ::-1]
  for kind, lost in (("none", True), ("sincos", False), ("sincos_one_frequency", False)):
    run, _, _ = small(position_embedding=kind)
    assert np.allclose(run(SOURCE, TARGET), run(shuffled, TARGET), atol=1e-5) == lost


def test_the_published_table_has_one_frequency():
  table = one_frequency_table(7, 5)
  for t in range(7):
    np.testing.assert_allclose(table[t], [np.sin(t), np.cos(t)] * 2 + [np.sin(t)], atol=1e-6)
  np.testing.assert_allclose(table[:, :2], sincos_table(7, 5)[:, :2], atol=1e-6)  # the first pair is right
  assert not np.allclose(table[:, 2:4], sincos_table(7, 5)[:, 2:4], atol=0.1)


def test_dropout_is_on_in_training_only():
  _, model, variables = small()
  noisy = fast_jit(
    lambda seed: model.apply(variables, SOURCE, TARGET, train=True, rngs={"dropout": jax.random.key(seed)})
  )
  assert not np.allclose(
    noisy(1), noisy(2)
  )  # and without training no random numbers are asked for: see above


@pytest.mark.parametrize("name", ["softmax", "knn", "convnn", "reattention"])
def test_any_attention_with_a_context_works(name):
  fields = dict(num_neighbors=3) if name in ("knn", "convnn") else {}
  model = Transformer(attention=dict(name=name, num_heads=2, **fields), mask="none", num_outputs=3, **SMALL)
  out = jax.eval_shape(lambda key: model.init_with_output(key, SOURCE, TARGET, train=False)[0], KEY)
  assert out.shape == (2, 4, 3)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(mask="future"), "Unknown mask 'future'"),
    (dict(output="probabilities"), "Unknown output 'probabilities'. Did you mean 'probs'"),
    (dict(decoder_depth=0), "decoder_depth=0 must be at least 1"),
    (dict(position_embedding="sin"), "Unknown position_embedding 'sin'"),
    (dict(attention=dict(name="sparse", num_heads=2)), "sparse attention relates positions of one sequence"),
    (dict(attention=dict(name="softmax", num_heads=3)), "num_heads=3 must divide the width 8"),
  ],
)
def test_mistakes_are_named(fields, message):
  model = Transformer(**(SMALL | dict(attention=softmax_spec(2)) | fields))
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda key: model.init(key, SOURCE, TARGET, train=False), KEY)

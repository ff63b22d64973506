"""What the compiler makes of a training step: no timing, read from the compiled program."""

import math

import jax
import pytest
from hlo import exchanges, num_aliases, num_kernels, shapes

from benchmarks import ops
from benchmarks.measure import gradients
from convnn_jax.training import config as config_lib
from convnn_jax.training import sharding
from convnn_jax.training.assemble import assemble
from convnn_jax.training.loop import make_update

# Sizes whose products meet nowhere else: 3 heads of 8 channels, 17 tokens, 7 neighbours.
SMALL = (
  "--config.model.width=24",
  "--config.model.depth=3",
  "--config.batch_size=16",
  "--config.model.attention.num_heads=3",
  "--config.model.attention.num_neighbors=7",
)
TINY = ["--config.batch_size=16"]


@pytest.fixture(autouse=True)
def _optimised():
  """As a user compiles; tests/conftest.py turns most optimisations off."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


class Step:
  """A config's update, compiled for arguments that lie ready."""

  def __init__(self, config):
    self.config, self.pieces = config, assemble(config)
    self.update = make_update(self.pieces, config)
    by_batch = sharding.batch_sharding(self.pieces.mesh)
    everywhere = sharding.replicated(self.pieces.mesh)
    n = 2 * config.batch_size
    place = lambda shape, dtype, where: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    resident = {
      "image": place((n, *self.pieces.info.source_shape), "uint8", everywhere),
      "label": place((n,), "int32", everywhere),
    }
    batch = {"index": place((config.batch_size,), "int32", by_batch)}
    self.compiled = self.update.lower(self.pieces.state_shapes, resident, batch).compile()
    self.text = self.compiled.as_text()

  @property
  def temp_bytes(self):
    return self.compiled.memory_analysis().temp_size_in_bytes

  def num_bytes(self, tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module", name="step")
def _step():
  """The small step on eight devices."""
  jax.config.update("jax_disable_most_optimizations", False)  # module fixtures come before others
  return Step(config_lib.load("configs/convnn_k9.py:digits", SMALL))


def check_exchanges(step):
  """Only gradients and metrics cross devices, each value once: in a sum in the loop over blocks, and one behind it."""
  found = exchanges(step.text)
  assert {e.kind for e in found} == {"all-reduce"}
  assert sum(e.bytes * e.times for e in found) <= step.num_bytes(step.pieces.state_shapes.params) + 64 * 1024
  assert len(found) <= 2, found


def check_selection(step):
  """Neighbours are chosen without sorting rows, and their values are gathered rank by rank."""
  assert " sort(" not in step.text
  spec, model = step.config.model.attention, step.config.model
  tokens = (step.pieces.info.image_shape[0] // model.patch_size) ** 2 + 1
  here = step.config.batch_size // sharding.batch_shards(step.pieces.mesh)
  gathered = here * tokens * spec.num_neighbors * model.width
  sizes = {math.prod(s) for s in shapes(step.text)}
  assert gathered not in sizes


def test_the_step_exchanges_gradients_and_nothing_else(step):
  check_exchanges(step)


def test_neighbors_are_selected_without_sorting_and_gathered_rank_by_rank(step):
  check_selection(step)


def test_the_blocks_run_as_one_loop(step):
  """Forward and backward pass: the layers' names stand in the program once, not once per layer."""
  assert 'known_trip_count":{"n":"3"}' in step.text


def test_more_blocks_need_no_more_kernels(one_device):
  """Gradients leave the loop's stack by slices; at places that the compiler knows each would be a kernel."""
  config = lambda depth: config_lib.load(
    "configs/convnn_k9.py:digits", [*SMALL, f"--config.model.depth={depth}"]
  )
  with one_device():
    few, many = (num_kernels(Step(config(depth)).text) for depth in (4, 7))
  assert 50 < many <= few


def test_the_state_is_updated_in_its_own_memory(step):
  shapes_of_state = step.pieces.state_shapes
  assert num_aliases(step.text) == len(jax.tree.leaves(shapes_of_state))
  kept = step.num_bytes((shapes_of_state.params, shapes_of_state.opt_state))
  assert step.compiled.memory_analysis().alias_size_in_bytes >= kept


def test_the_step_never_asks_the_host(step):
  for word in ("callback", "infeed", "outfeed", " send(", " recv("):
    assert word not in step.text


@pytest.mark.slow
# 4 x 192 are the hidden channels; of 32 neighbours scores and places are kept, of more no longer.
@pytest.mark.parametrize(("num_heads", "num_neighbors"), [(1, 5), (1, 9), (1, 25), (3, 32), (3, 196)])
def test_vit_tiny_needs_little_memory_whatever_the_number_of_neighbors(one_device, num_heads, num_neighbors):
  attention = dict(num_heads=num_heads, num_neighbors=num_neighbors)
  with one_device():
    step = Step(
      config_lib.load(
        "configs/convnn_k9.py", [*TINY, *(f"--config.model.attention.{k}={v}" for k, v in attention.items())]
      )
    )
  assert step.temp_bytes <= 450e6
  check_selection(step)


@pytest.mark.slow
def test_vit_tiny_that_keeps_inputs_only_needs_least_memory(one_device):
  with one_device():
    step = Step(config_lib.load("configs/convnn_k9.py", [*TINY, "--config.model.scan_layers=full"]))
  assert step.temp_bytes <= 250e6


@pytest.mark.slow
def test_vit_tiny_exchanges_gradients_and_nothing_else():
  check_exchanges(Step(config_lib.load("configs/vit_softmax.py", TINY)))


def test_memory_of_neighbour_attention_is_flat_in_k_and_that_of_softmax_at_most():
  shape = ops.ATTENTION_SHAPES["197"]
  arguments = [jax.random.normal(jax.random.key(seed), shape) for seed in range(3)]

  def temp_bytes(function, *kernel):
    return gradients(function, *arguments, *kernel).temp_bytes

  few, many = (temp_bytes(ops.convnn, jax.numpy.ones((k, shape[-1]))) for k in (4, 25))
  assert many <= 1.25 * few
  assert many <= temp_bytes(ops.dense)


def test_neighbour_attention_keeps_a_weight_and_a_place_for_each_neighbour():
  (figure,) = (case for case in ops.OPS_197.cases if case.id == "M3")
  (name,) = figure.needs
  assert figure.value({name: ops.OPS_197.contenders[name]()}, {}) <= 1

"""Strict settings for every test: eight simulated devices, no silent rank promotion."""

import os
from pathlib import Path

# Before jax is imported anywhere: tests of sharding need several devices on one CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiling takes most of the time of the tests; tests that start processes, and training itself, optimise as usual.
jax.config.update("jax_disable_most_optimizations", True)

# (family, case) -> {dtype: result}, sent by tests/test_golden.py with its reports, which reach the end of the run also
# from several processes (pytest -n); printed as one line a case.
GOLDEN_RESULTS: dict[tuple[str, str], dict[str, str]] = {}


def pytest_addoption(parser):
  parser.addoption(
    "--golden-dir",
    default=str(Path(__file__).parent / "golden"),
    help="folder of reference cases (.npz, searched recursively) for tests/test_golden.py",
  )


def pytest_runtest_logreport(report):
  for name, value in report.user_properties:
    if name == "reference case" and report.when == "call":
      family, case, dtype, result = value
      GOLDEN_RESULTS.setdefault((family, case), {})[dtype] = result


def pytest_terminal_summary(terminalreporter):
  if GOLDEN_RESULTS:
    terminalreporter.section("reference cases: worst difference of the output and of the gradients")
    for (family, case), by_dtype in sorted(GOLDEN_RESULTS.items()):
      text = "; ".join(f"{dtype} {by_dtype[dtype]}" for dtype in sorted(by_dtype, reverse=True))
      terminalreporter.write_line(f"{family:8} {case:56} {text}")


@pytest.fixture
def small_config():
  """A function that gives the config of a run of seconds: a tiny ViT on digits, changed by overrides."""
  from convnn_jax.training import config as config_lib

  def make(*overrides, attention="convnn", config="configs/convnn_k9.py:digits"):
    small = (
      "--config.batch_size=128",
      "--config.num_epochs=2",
      "--config.log_every=5",
      "--config.eval_batch_size=120",
      "--config.model.width=16",
      "--config.model.depth=1",
      "--config.model.mlp_dim=16",
      "--config.model.patch_size=4",
      "--config.model.attention.num_neighbors=3",
      "--config.optimizer.warmup_epochs=0",
    )
    if attention != "convnn":  # 17 tokens, enough for every default window
      small = tuple(word for word in small if "num_neighbors" not in word and "patch_size" not in word)
      small = (*small, f"--config.model.attention.name={attention}")
    return config_lib.load(config, (*small, *overrides))

  return make


@pytest.fixture
def one_device(monkeypatch):
  """A context in which runs see a single device, although eight are simulated."""
  import contextlib

  from convnn_jax.training import sharding

  @contextlib.contextmanager
  def only_one():
    def make_mesh(config):
      del config
      auto = (jax.sharding.AxisType.Auto,) * len(sharding.AXES)
      return jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=auto, devices=jax.devices()[:1])

    with monkeypatch.context() as patch:
      patch.setattr(sharding, "make_mesh", make_mesh)
      yield

  return only_one

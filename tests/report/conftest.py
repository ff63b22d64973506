"""Runs without training."""

import pytest


@pytest.fixture
def saved_run(small_config):
  """A function that makes the folder of a run with initial parameters as its checkpoint; returns its path."""
  from convnn_jax.training import workdir as workdir_lib
  from convnn_jax.training.assemble import assemble
  from convnn_jax.training.checkpoint import Checkpoints
  from convnn_jax.training.record import RunRecord

  def make(path, *overrides, **kwargs):
    config = small_config(*overrides, **kwargs)
    folder = workdir_lib.open_workdir(path, config)
    with Checkpoints(folder) as checkpoints:
      items = assemble(config).create_state().checkpoint_items()
      checkpoints.save(1, items, RunRecord(step=1).to_meta(), finish="now")
    return str(folder)

  return make

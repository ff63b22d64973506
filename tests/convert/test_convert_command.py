"""python -m convnn_jax.convert: files into runs, runs into files, evaluation and training from what it wrote."""

import json

import jax
import numpy as np
import pytest
from commands import result, run

from convnn_jax.convert.__main__ import main
from convnn_jax.convert.cct_checkpoint import write_cct
from convnn_jax.convert.read import read_state, write_safetensors
from convnn_jax.convert.vit_checkpoint import write_vit
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training.assemble import assemble

SIZES = ["--config.model.width=16", "--config.model.mlp_dim=16", "--config.model.depth=1"]
SIZES += ["--config.model.attention.num_heads=2"]
VIT, CCT = "--config=configs/vit_finetune.py:tiny,google,digits", "--config=configs/cct.py:digits"
WRITERS = {
  VIT: lambda params, config: write_vit(params, config.model.to_dict(), "google"),
  CCT: lambda params, config: write_cct(params, config.model.to_dict(), (8, 8)),
}


def made_up(config_flag, path):
  """A checkpoint of random numbers in a file, as another code would have left it."""
  config = config_lib.load(config_flag.removeprefix("--config="), SIZES)
  rng = np.random.default_rng(0)
  draw = lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
  state = WRITERS[config_flag](jax.tree.map(draw, assemble(config).state_shapes.params), config)
  np.savez(path, **state) if path.suffix == ".npz" else write_safetensors(path, state)
  return state


@pytest.mark.parametrize(("config", "names"), [(VIT, "google"), (CCT, "published")], ids=["vit", "cct"])
def test_a_file_becomes_a_run_and_a_file_again(config, names, tmp_path, capsys):
  state = made_up(config, tmp_path / "theirs.npz")
  main([str(tmp_path / "theirs.npz"), config, *SIZES, f"--out={tmp_path / 'run'}"])
  out = capsys.readouterr().out
  assert out.splitlines()[0] == f"read {len(state)} arrays in the names of {names} code"
  assert out.splitlines()[-1] == f"wrote step 0 of {tmp_path / 'run'}"
  main([f"{tmp_path / 'run'}:last", f"--names={names}", f"--out={tmp_path / 'ours.safetensors'}"])
  out = capsys.readouterr().out
  assert f"wrote step 0 of {tmp_path / 'run'} as {len(state)} arrays" in out
  assert len(out.splitlines()) == 1
  if config == VIT:  # other code computes another GELU
    main([str(tmp_path / "run"), "--names=timm", f"--out={tmp_path / 'timm.npz'}"])
    assert "timm code computes with model.activation=gelu, " in capsys.readouterr().out
  with pytest.raises(UserError, match="another config. Choose another --out,"):
    main([str(tmp_path / "theirs.npz"), config, *SIZES, "--config.seed=9", f"--out={tmp_path / 'run'}"])
  written = read_state(str(tmp_path / "ours.safetensors"))
  assert written.keys() == state.keys()
  for name, array in state.items():
    np.testing.assert_array_equal(written[name], array, err_msg=name)


def test_mistakes_are_named(tmp_path):
  made_up(VIT, tmp_path / "theirs.npz")
  theirs, out = str(tmp_path / "theirs.npz"), f"--out={tmp_path / 'run'}"
  (tmp_path / "there.npz").touch()
  for words, message in (
    ([theirs, VIT, out], "needs --config.model.width=16 --config.model.mlp_dim=16 .*depth=1"),
    ([theirs, CCT, out], "not the names of a CCT"),
    ([theirs, VIT, *SIZES, out, "--config.init_from=x"], "init_from is for training"),
    ([theirs, out], "--config=configs/NAME.py must say"),
    ([theirs, VIT, out, "--names=timm"], "leave out one of them"),
    ([theirs, VIT, out, "--nmaes=timm"], "Unknown argument '--nmaes=timm'"),
    ([str(tmp_path), out], "must end with one of .safetensors, .npz"),
    ([str(tmp_path / "nothing"), f"--out={tmp_path}/x.npz"], "source=.*nothing holds no run"),
    ([str(tmp_path / "nothing"), f"--out={tmp_path}/there.npz"], "is there already"),
  ):
    with pytest.raises(UserError, match=message):
      main(words)
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_is_converted_evaluates_and_trains(tmp_path):
  """In processes of their own, as a user types it."""
  made_up(VIT, tmp_path / "theirs.npz")
  convert = ("convnn_jax.convert", str(tmp_path / "theirs.npz"), VIT, *SIZES)
  run(*convert, f"--out={tmp_path / 'run'}")
  first = json.loads(run("eval.py", f"--workdir={tmp_path / 'run'}")[0].splitlines()[-1])
  assert first["step"] == 0
  # At so small a rate nothing changes, and the run ends where the checkpoint is.
  still = (
    "--config.num_epochs=1",
    "--config.optimizer.warmup_epochs=0.0",
    "--config.optimizer.learning_rate=1e-30",
  )
  words = (VIT, *SIZES, *still, f"--config.init_from={tmp_path / 'run'}")
  out, _ = run("train.py", *words, f"--workdir={tmp_path / 'tuned'}")
  assert f"starting from step 0 of {tmp_path / 'run'}" in out
  assert result(tmp_path / "tuned")["test_loss"] == first["loss"]
  _, err = run("train.py", *words, "--config.model.width=32", f"--workdir={tmp_path / 'wide'}", expect=2)
  assert "model.width: 16 -> 32" in err
  assert len(err.strip().splitlines()) == 1
  assert not (tmp_path / "wide").exists()

"""Folders of runs that are not as they should be."""

import pytest

from convnn_jax.errors import UserError
from convnn_jax.training import workdir
from convnn_jax.training.metrics import Writer


def test_a_new_folder_and_the_same_config_again(tmp_path, small_config):
  config = small_config()
  folder = workdir.open_workdir(tmp_path / "a b" / "run", config)
  assert workdir.open_workdir(folder, config) == folder
  assert workdir.load_config(folder)[1].to_dict() == config.to_dict()
  with pytest.raises(UserError, match="seed: 42 -> 7"):
    workdir.open_workdir(folder, small_config("--config.seed=7"))


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe", b"{}", b'{"data": 3}'])
def test_a_damaged_config_is_named(content, tmp_path, small_config):
  (tmp_path / "config.json").write_bytes(content)
  with pytest.raises(UserError, match=r"config.json cannot be read"):
    workdir.open_workdir(tmp_path, small_config())
  with pytest.raises(UserError, match=r"config.json cannot be read"):
    workdir.load_config(tmp_path)
  assert (tmp_path / "config.json").read_bytes() == content


def test_files_where_folders_should_be(tmp_path, small_config):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(UserError, match="is a file"):
    workdir.open_workdir(tmp_path / "file", small_config())
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "checkpoints").write_text("mine")
  with pytest.raises(UserError, match="checkpoints is a file"):
    workdir.open_workdir(tmp_path / "run", small_config())


def test_a_damaged_result_is_named_and_kept(tmp_path):
  assert workdir.read_result(tmp_path) is None
  (tmp_path / "result.json").write_text('{"test_top1": 0.9')
  with pytest.raises(UserError, match=r"result.json cannot be read"):
    workdir.read_result(tmp_path)
  for text in ("{}", "[]", '{"test_top1": "0.9"}'):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result.json cannot be read"):
      workdir.read_result(tmp_path, ["test_top1"])


def test_scrambled_metrics_do_not_stop_a_run(tmp_path):
  (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "part": "train"}\n\xff\xfe\n[1]\n"x"\n')
  with Writer(tmp_path, 1):
    pass
  assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "part": "train"}\n'


def test_one_training_at_a_time(tmp_path):
  second = workdir.only_run_in(tmp_path)
  with workdir.only_run_in(tmp_path), pytest.raises(UserError, match="Another process trains"):
    second.__enter__()
  with workdir.only_run_in(tmp_path):
    pass


def test_files_that_would_be_written_again_are_set_aside(tmp_path):
  for text in ("first", "second"):
    (tmp_path / "result.json").write_text(text)
    workdir.set_aside(tmp_path / "result.json")
  assert not (tmp_path / "result.json").exists()
  kept = sorted((path.name, path.read_text()) for path in tmp_path.iterdir())
  assert kept == [("result.previous-1.json", "first"), ("result.previous-2.json", "second")]

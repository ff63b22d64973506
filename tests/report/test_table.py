"""Runs as a table, beside what was published."""

import csv
import json

import pytest

from convnn_jax.errors import UserError
from convnn_jax.report import table
from convnn_jax.report.sweep_results import external_baseline
from convnn_jax.training import config as config_lib

RESULT = {
  "test_top1": 0.5,
  "best_test_top1": 0.75,
  "num_params": 1234567,
  "flops_per_image": 2_500_000,
  "step_ms_median": 3.0,
  "device": "cpu",
  "num_devices": 1,
  "commit": "abc",
}


@pytest.fixture
def run(tmp_path, small_config):
  def make(name, *overrides, **result):
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config_lib.to_json(small_config(*overrides)))
    (folder / "result.json").write_text(json.dumps(RESULT | result))
    return folder

  return make


def test_seeds_are_one_row(run, tmp_path):
  run("a-seed=0", "--config.seed=0", test_top1=0.4)
  run("a-seed=1", "--config.seed=1", test_top1=0.6, step_ms_median=None, commit="def")
  run("b", "--config.model.depth=2")
  first, second = (table.row(runs) for runs in table.group(table.find_runs([str(tmp_path / "runs")])))
  assert (first["run"], first["seeds"], first["test_top1"]) == ("a", 2, pytest.approx(0.5))
  assert first["test_top1_sd"] == pytest.approx(0.2 / 2**0.5)
  assert first["step_ms_median"] == 3.0
  assert first["commit"] == "abc, def"
  assert (second["run"], second["seeds"], second["test_top1_sd"]) == ("b", 1, None)


def test_fields_in_which_rows_differ_stand_below(run, small_config, tmp_path, capsys):
  run("a", "--config.model.attention.num_heads=1")
  words = ("--config.model.attention.num_heads=2", "--config.model.patch_size=4", "--config.num_epochs=3")
  other = small_config(*words, attention="neighborhood")
  (run("b") / "config.json").write_text(config_lib.to_json(other))
  table.main([f"--workdir={tmp_path / 'runs'}", f"--out={tmp_path / 'out'}"])
  assert "| model.attention.num_heads | 1     | 2    |" in capsys.readouterr().out
  # Not the fields that one of the two attentions has, nor those of the table's own columns.
  rows = csv.DictReader((tmp_path / "out" / "differences.csv").read_text().splitlines())
  assert {row["field"]: (row["a"], row["b"]) for row in rows} == {
    "model.attention.num_heads": ("1", "2"),
    "model.attention.out_bias": ("False", "True"),
  }
  table.main([f"--workdir={tmp_path / 'runs' / 'a'}"])
  assert "Other fields" not in capsys.readouterr().out


def test_published_rows_stand_beside_ours(run, tmp_path, capsys):
  folder = run("mine", "--config.optimizer.learning_rate=0.5")
  published = tmp_path / "notes.csv"
  published.write_text(
    "model,dataset,best_top1,match,source\n"
    "X,digits,71.5,data.name=digits;optimizer.learning_rate=5e-1;num_params=1234567,a paper\n"
    "Y,digits,99.9,data.name=digits;num_params=1,another\n"
    "Z,digits,88.8,,a third\n"
  )
  out = tmp_path / "out"
  table.main([f"--workdir={folder}", f"--published={published}", f"--out={out}"])
  (ours,) = csv.DictReader((out / "table.csv").read_text().splitlines())
  assert ours["published"] == "71.5"
  rows = list(csv.DictReader((out / "published-notes.csv").read_text().splitlines()))
  assert [row["ours_best"] for row in rows] == ["75.00", "", ""]
  assert "1,234,567" in capsys.readouterr().out
  table.main([f"--workdir={folder}", f"--published={published}", "--matching"])
  out = capsys.readouterr().out
  assert "another" not in out
  assert "no run matches" not in out


def test_published_rows_without_a_run_are_said_to_be(run, tmp_path, capsys):
  folder = run("mine")
  published = tmp_path / "notes.csv"
  published.write_text("model,best_top1,match,source\nX,71.5,num_params=1,a paper\n")
  table.main([f"--workdir={folder}", f"--published={published}", "--matching"])
  assert f"{published}: no run matches a row; its column `match`" in capsys.readouterr().out


def test_damaged_runs_are_named_and_the_others_shown(run, tmp_path, capsys):
  run("good")
  for name, file, text in (
    ("one", "result.json", "{}"),
    ("two", "result.json", "[]"),
    ("three", "config.json", "{}"),
  ):
    (run(name) / file).write_text(text)
  with pytest.raises(
    UserError, match=r"one/result.json cannot.*three/config.json cannot.*two/result.json cannot"
  ):
    table.main([f"--workdir={tmp_path / 'runs'}"])
  assert "good" in capsys.readouterr().out
  with pytest.raises(UserError, match=r"one/result.json cannot be read"):
    table.main([f"--workdir={tmp_path / 'runs/one'}"])


def test_mistakes(run, tmp_path):
  folder = run("mine")
  with pytest.raises(UserError, match=r"holds no run;.* Runs in .*: mine\."):
    table.main([f"--workdir={tmp_path / 'runs/nothing'}"])
  with pytest.raises(UserError, match="Unknown published table 'convn'. Did you mean 'convnn'"):
    table.main([f"--workdir={folder}", "--published=convn"])
  (folder / "result.json").unlink()
  with pytest.raises(UserError, match="not finished"):
    table.main([f"--workdir={folder}"])


@pytest.mark.parametrize("name", sorted(path.stem for path in table.PUBLISHED.glob("*.csv")))
def test_published_tables_are_whole(name):
  """Every row says where it comes from, its numbers are numbers, and its conditions can be read."""
  rows = table.read_published(name)
  assert rows
  for row in rows:
    assert row["source"]
    for key in ("best_top1", "last_top1", "top5"):
      assert row[key] is None or 0 < float(row[key]) < 100
    for key in ("params", "gflops", "inference_ms", "epochs"):
      assert row[key] is None or float(row[key]) > 0
    assert all(condition.count("=") == 1 for condition in (row["match"] or "a=b").split(";"))


OURS = {
  ("convnn", "vit_softmax"): "78.3691",
  ("convnn", "convnn_k9"): "74.3945",
  ("convnn", "local"): "74.5117",
  ("sot", "cct_2_3x2"): "78.14",
  ("sot", "sot_q"): "76.65",
  ("sot", "sot_q_no_softmax"): "74.96",
  ("sot", "sot_qk_no_softmax"): "76.88",
  ("sot", "sot_qkt"): "76.76",
}


@pytest.mark.parametrize("name", OURS)
def test_the_published_runs_of_our_configs_are_found(name):
  """The conditions in docs/published speak of configs as they are."""
  config = config_lib.flatten(config_lib.load(f"configs/{name[1]}.py").to_dict())
  published = table.read_published(name[0])
  found = [row["best_top1"] for row in published if table.matches(row["match"], config, {"num_params": 0})]
  assert OURS[name] in found


def test_a_sweep_over_seeds_alone_lends_its_name(run, tmp_path):
  run("sweep-mine/points/seed=0")
  run("sweep-mine/points/seed=1", "--config.seed=1")
  (runs,) = table.group(table.find_runs([str(tmp_path / "runs")]))
  assert table.row(runs)["run"] == "sweep-mine"


def test_a_copy_of_a_run_is_no_second_seed(run, tmp_path, capsys):
  run("a", params_digest="same")
  run("backup/a", params_digest="same")
  run("again", params_digest="other")  # by another version of the code
  (runs,) = table.group(table.find_runs([str(tmp_path / "runs")]))
  assert [path.name for path, *_ in runs] == ["a", "again"]
  assert "it counts once" in capsys.readouterr().out


def test_a_baseline_is_one_setting(run):
  first, second = (
    run("a", test_loss=0.1, train_seconds=1),
    run("b", "--config.seed=1", test_loss=0.1, train_seconds=1),
  )
  other = run("c", "--config.model.depth=2", test_loss=0.1, train_seconds=1)
  assert external_baseline([str(first), str(second), str(first)])["seeds"] == 2
  with pytest.raises(UserError, match=r"differ in model\.depth; a baseline is one setting"):
    external_baseline([str(first), str(other)])

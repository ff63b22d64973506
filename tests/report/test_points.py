"""What a config file's sweep() may say."""

import pytest

from convnn_jax.errors import UserError
from convnn_jax.report.points import read_points

HEAD = """
from configs import base

def get_config(data="digits"):
  return base.with_data(base.get_config(), data)

"""


@pytest.fixture
def write(tmp_path):
  def make(text):
    path = tmp_path / "sweep_config.py"
    path.write_text(HEAD + text)
    return str(path)

  return make


def test_points_and_baseline():
  points = read_points("tests/report/small_sweep.py", ["--config.optimizer.learning_rate=0.5"])
  assert [f"{p.part}/{p.name}" for p in points] == [
    "points/temperature=0.5-seed=0",
    "points/temperature=0.5-seed=1",
    "points/temperature=2.0-seed=0",
    "points/temperature=2.0-seed=1",
    "baseline/attention=softmax-seed=0",
    "baseline/attention=softmax-seed=1",
  ]
  assert [p.config.seed for p in points] == [0, 1, 0, 1, 0, 1]
  assert points[2].config.model.attention.temperature == 2.0
  assert points[5].config.model.attention.name == "softmax"
  assert "num_neighbors" not in points[5].config.model.attention  # the section was replaced as a whole
  assert {p.config.optimizer.learning_rate for p in points} == {0.5}
  assert points[2].setting == {"model.attention.temperature": 2.0}


def test_limit_also_limits_the_seeds_of_the_baseline():
  points = read_points("tests/report/small_sweep.py", [], limit=1)
  assert [(p.part, p.config.seed) for p in points] == [("points", 0), ("baseline", 0)]


def test_the_sweep_of_the_self_optimal_transport_study():
  points = read_points("configs/sot_entropy_sweep.py:digits", [], limit=4)
  assert (points[3].config.model.attention.regularization, points[3].config.seed) == (0.15, 1)
  assert points[3].config.data.name == "digits"
  assert [(p.config.model.attention.name, p.config.seed) for p in points if p.part == "baseline"] == [
    ("softmax", 0),
    ("softmax", 1),
  ]
  assert {p.config.data.name for p in points} == {"digits"}


def test_argument_other_files_and_equal_names(write):
  path = write(
    "def sweep(data):\n"
    "  yield {'data.image_size': 16 if data == 'digits' else 28}\n"
    "  yield {'config': 'configs/convnn_k9.py:mnist', 'seed': 3}\n"
    "  yield {'model.dropout_rate': 0.2}\n"
    "  yield {'model.attention.dropout_rate': 0.2}\n"
  )
  points = read_points(f"{path}:digits", [])
  assert points[0].config.data.image_size == 16
  assert (points[1].config.data.name, points[1].config.model.attention.name) == ("mnist", "convnn")
  assert points[2].name == "dropout_rate=0.2"
  assert points[3].name.startswith("dropout_rate=0.2-")


@pytest.mark.parametrize(
  ("text", "words", "message"),
  [
    ("", [], "has no function sweep"),
    ("def sweep():\n  return 3\n", [], "must return dicts"),
    ("def sweep():\n  return [3]\n", [], "must return dicts"),
    ("def sweep():\n  return []\n", [], "returns no points"),
    ("def sweep():\n  return [{'seed': 1}, {'seed': 1}]\n", [], "point 1 .* is there twice"),
    ("def sweep():\n  return [{'modle.depth': 1}]\n", [], "point 0 .*Did you mean 'model'"),
    ("def sweep():\n  return [{'model.deepth': {'a': 1}}]\n", [], "is not a section"),
    ("def sweep():\n  return [{'seed': 'x'}]\n", [], "point 0 .*must be of type int"),
    ("def sweep():\n  yield 1 / 0\n", [], "line 8: ZeroDivisionError"),
    ("def sweep():\n  return [{'seed': 1}]\n", ["--config.seed=2"], "--config.seed=2: sweep.. sets seed"),
  ],
)
def test_mistakes(write, text, words, message):
  with pytest.raises(UserError, match=message):
    read_points(write(text), words)

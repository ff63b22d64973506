"""The README's commands are what CI runs, and what it points to exists."""

import json
import pathlib
import re
import subprocess

from benchmarks import readme

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands():
  return re.findall(r"<!-- (\w+) -->\n```bash\n(.+)\n```", README)


def test_the_first_screen_trains_evaluates_and_tests():
  assert [name for name, _ in commands()] == ["train", "evaluate", "test"]
  first_screen = "\n".join(README.splitlines()[:30])
  for name, command in commands():
    assert command in first_screen
    in_ci = subprocess.run(
      ["bash", "-c", f"{_function()}\nreadme_command {name}"],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    )
    assert in_ci.stdout.strip() == command


def _function():
  """The function of .ci/run that reads the README."""
  return next(
    line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("readme_command")
  )


def test_links_and_files_exist():
  for text, target in re.findall(r"\[([^\]]+)\]\(([^)]+)\)", README):
    assert target.startswith("https://") or (ROOT / target).exists(), text
  for path in re.findall(r"--config=([\w/]+\.py)", README):
    assert (ROOT / path).exists(), path


def test_every_attention_is_in_the_table():
  from convnn_jax.attention import ATTENTIONS

  assert set(re.findall(r"^\| `(\w+)` \|", README, re.M)) == set(ATTENTIONS)


def test_the_table_of_speed_is_that_of_the_newest_results():
  newest = sorted((ROOT / "benchmarks" / "results").glob("*-cpu-headline.json"))[-1]
  assert readme.written(README, json.loads(newest.read_text())) == README

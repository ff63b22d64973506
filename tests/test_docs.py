"""The code in docs/ does what the text says."""

import os
import pathlib
import re
import resource
import shlex
import subprocess
import sys

import pytest

from convnn_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def commands(page):
  """The words of every command that a page shows, without remarks and prompts."""
  for line in "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", (ROOT / page).read_text(), re.S)).splitlines():
    if line.startswith("python "):
      yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_a_program_a_config_and_known_fields(page):
  for words in commands(page):
    script = words[1].replace(".", "/") if words[0] == "-m" else words[0]
    files = [ROOT / script, ROOT / f"{script}.py", ROOT / script / "__main__.py"]
    assert any(path.is_file() for path in files), words
    fields = [word for word in words if word.startswith("--config.")]
    for config in (word.partition("=")[2] for word in words if word.startswith("--config=")):
      config_lib.load(config, fields)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
  for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
    assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_the_transformer_learns_to_reverse_a_sequence(tmp_path):
  (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/transformer.md").read_text(), re.S)
  script = tmp_path / "reverse.py"
  script.write_text(block)
  env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  before = _seconds_of_children()
  done = subprocess.run(
    [sys.executable, script], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600
  )
  assert done.returncode == 0, done.stderr
  assert float(re.search(r"symbols right ([\d.]+) %", done.stdout)[1]) > 99
  # A minute of one core: time on the clock would depend on what else runs here.
  assert _seconds_of_children() - before < 60


def _seconds_of_children():
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime

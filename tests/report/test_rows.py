"""Tables and folders of reports."""

import math

import pytest

from convnn_jax.errors import UserError
from convnn_jax.report import rows

COLUMNS = (
  rows.Column("name", "run"),
  rows.Column("top1", "top-1 %", rows.percent),
  rows.Column("none", "nothing"),
)
ROWS = [{"name": "a", "top1": 0.98765}, {"name": "b", "top1": None}, {"name": "c", "top1": math.nan}]


def test_markdown_aligns_numbers_and_leaves_out_empty_columns():
  assert rows.markdown(COLUMNS, ROWS).splitlines() == [
    "| run | top-1 % |",
    "| --- | ------: |",
    "| a   |   98.77 |",
    "| b   |       - |",
    "| c   |       - |",
  ]


def test_csv_keeps_all_columns_and_digits():
  assert rows.csv_text(COLUMNS, ROWS) == "name,top1,none\na,0.98765,\nb,,\nc,,\n"


def test_a_report_gets_a_folder_of_its_own(tmp_path):
  default = str(tmp_path / "report")
  first = rows.fresh_folder("", default)
  (first / "mine.txt").write_text("kept")
  assert rows.fresh_folder("", default) == tmp_path / "report-2"
  with pytest.raises(UserError, match="not empty"):
    rows.fresh_folder(default, "unused")
  (tmp_path / "file").touch()
  with pytest.raises(UserError):
    rows.fresh_folder(str(tmp_path / "file"), "unused")
  with pytest.raises(UserError, match="cannot be made"):
    rows.fresh_folder(str(tmp_path / "file" / "below"), "unused")
  assert (first / "mine.txt").read_text() == "kept"


def test_positions():
  assert rows.numbers("--layer", "all", 3, "layer") == [0, 1, 2]
  assert rows.numbers("--layer", "2, 0", 3, "layer") == [2, 0]
  assert rows.numbers("--layer", "1-2,0", 3, "layer") == [1, 2, 0]
  assert rows.numbers("--layer", "1,1,0-2", 3, "layer") == [1, 0, 2]
  for text in ("3", "x", "", "-1", "1.5", "1-3", "0-1-2", "2-1", "0-"):
    with pytest.raises(UserError, match=f"--layer={text}"):
      rows.numbers("--layer", text, 3, "layer")

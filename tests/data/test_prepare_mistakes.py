"""Preparing: every mistake ends with exit code 2 and one paragraph that says the way out."""

import shutil
import socket
import subprocess
import sys

import pytest

from convnn_jax.data import debian, prepare, prepared
from convnn_jax.data.catalog import CATALOG

CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"


def test_unknown_names_from_the_shell():
  command = [sys.executable, "-m", "convnn_jax.data.prepare", "cifar11"]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.startswith("Unknown data set 'cifar11'. Did you mean 'cifar10'?")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
  ("name", "reason"), [("digits", "part of scikit-learn"), ("folder", "train/<class>/")]
)
def test_sets_without_preparation_say_so(run, name, reason):
  code, out, _ = run(name)
  assert code == 0
  assert "needs no preparation" in out
  assert reason in out


def refuse(*_, **__):
  raise socket.gaierror(-2, "Name or service not known")


@pytest.fixture
def fails(run, tmp_path):
  """A function: standard error of a run that must end with exit code 2, one paragraph and no file."""

  def command(*arguments, root=tmp_path / "data"):
    code, out, err = run(*arguments, f"--data_dir={root}")
    assert code == 2, (out, err)
    assert err.count("\n") == 1
    assert not list(root.rglob("*.*"))
    return err

  return command


def test_no_network_is_said_at_once(fails, monkeypatch):
  monkeypatch.setattr(socket, "create_connection", refuse)
  monkeypatch.setattr(prepare.urllib.request, "getproxies", dict)
  err = fails("cifar100")
  assert "www.cs.toronto.edu port 443" in err
  assert "copy cifar-100-binary.tar.gz into a folder of this machine" in err
  assert "--manual_dir=FOLDER" in err


def test_behind_a_proxy_the_proxy_is_what_must_answer(fails, monkeypatch):
  monkeypatch.setattr(socket, "create_connection", refuse)
  monkeypatch.setattr(prepare.urllib.request, "getproxies", lambda: {"https": "http://proxy.example:3128"})
  assert "proxy.example port 3128" in fails("mnist")


def test_imagenet_must_be_fetched_by_hand(fails):
  err = fails("imagenet")
  assert "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar" in err
  assert "image-net.org" in err


def test_missing_and_incomplete_archives_are_named(tmp_path, fails):
  manual = tmp_path / "manual"
  manual.mkdir()
  (manual / "ILSVRC2012_img_train.tar").write_bytes(b"short")
  err = fails("imagenet", f"--manual_dir={manual}")
  assert "lacks ILSVRC2012_img_val.tar." in err
  (manual / "ILSVRC2012_img_val.tar").write_bytes(b"short")
  err = fails("imagenet", f"--manual_dir={manual}")
  assert "has 5 bytes, the original 147,897,477,120" in err


def test_damaged_archives_are_found_by_their_checksum(tmp_path, fails):
  manual = tmp_path / "manual"
  manual.mkdir()
  (manual / CIFAR_ARCHIVE).write_bytes(b"not an archive")
  err = fails("cifar10", f"--manual_dir={manual}")
  assert "is not the original file: it is damaged or incomplete" in err


def test_no_space(tmp_path, fails, monkeypatch):
  (tmp_path / CIFAR_ARCHIVE).touch()
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
  err = fails("cifar10", f"--manual_dir={tmp_path}")
  assert "has 5 MB free" in err


def test_a_file_in_the_place_of_the_folder(tmp_path, fails):
  (tmp_path / CIFAR_ARCHIVE).touch()
  err = fails("cifar10", f"--manual_dir={tmp_path}", root=tmp_path / CIFAR_ARCHIVE / "data")
  assert "is a file" in err


def test_missing_packages_are_named(fails, monkeypatch):
  find = prepare.importlib.util.find_spec
  monkeypatch.setattr(
    prepare.importlib.util, "find_spec", lambda name: None if name == "importlib_resources" else find(name)
  )
  assert "pip install importlib_resources" in fails("mnist")


def test_only_repacked_archives_are_taken_for_debians(tmp_path):
  original = debian.GZIP + debian.WITH_NAME
  for name in debian.STAMPS:
    (tmp_path / name).write_bytes(debian.GZIP + debian.NO_NAME + b"rest of the file")
  assert debian.is_repacked(tmp_path)
  (tmp_path / name).write_bytes(original + b"rest of the file")
  assert not debian.is_repacked(tmp_path)
  assert not debian.is_repacked(tmp_path / "nowhere")


def test_the_command_in_messages_names_the_folder_only_where_needed(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  entry = CATALOG["mnist"]
  assert prepared.command(entry, prepared.data_root("")) == "python -m convnn_jax.data.prepare mnist"
  assert prepared.command(entry, prepared.data_root("x")).endswith("/x")

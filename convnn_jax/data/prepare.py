"""Prepares a data set once, so that training reads it without network and without TensorFlow.

    python -m convnn_jax.data.prepare cifar10 [--data_dir=DIR] [--manual_dir=DIR]

Everything that can be known before a long download is checked first: the name, the packages, the disk,
the archives in --manual_dir, the server. The set appears under its final name only when it is complete.
"""

import argparse
import contextlib
import importlib.util
import io
import pathlib
import shutil
import socket
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from convnn_jax.data import debian, prepared, tf_free
from convnn_jax.data.catalog import CATALOG
from convnn_jax.errors import UserError, choose

PACKAGES = {  # import name -> name for pip
  "tensorflow_datasets": "tensorflow-datasets",
  "importlib_resources": "importlib_resources",
  "array_record": "array_record",
  "PIL": "Pillow",
}
PROBE_SECONDS = 5.0
MB = 1_000_000


def main(argv=None):
  """Command line; returns the exit code: 0 prepared or nothing to do, 2 a mistake of the user."""
  parser = argparse.ArgumentParser(
    prog="python -m convnn_jax.data.prepare", description="Prepare a data set for training, once."
  )
  parser.add_argument("name", help=", ".join(CATALOG))
  parser.add_argument("--data_dir", default="", help="default: $TFDS_DATA_DIR or ~/tensorflow_datasets")
  parser.add_argument("--manual_dir", default="", help="folder with the original archives; no download then")
  flags = parser.parse_args(argv)
  try:
    prepare(flags.name, flags.data_dir, flags.manual_dir)
  except UserError as error:
    sys.stderr.write(f"{error}\n")
    return 2
  except KeyboardInterrupt:
    sys.stderr.write("\nInterrupted; nothing half prepared is left. Finished downloads are kept.\n")
    return 130
  return 0


def prepare(name, data_dir="", manual_dir=""):
  """Prepares the data set `name` below `data_dir`; does nothing if it is there already.

  Args:
    name: key of the catalog.
    data_dir: "" for $TFDS_DATA_DIR or ~/tensorflow_datasets.
    manual_dir: folder with the original archives, or "" to download them.

  Raises:
    UserError: unknown name, missing package, space, archive or server, or a damaged archive.
  """
  entry = choose("data set", name, CATALOG)
  if entry.source != "tfds":
    _say(f"The data set '{name}' needs no preparation: " + _WITHOUT_PREPARATION[entry.source])
    return
  root = prepared.data_root(data_dir)
  directory = prepared.set_dir(entry, root)
  if directory.is_dir():
    prepared.check(entry, root)
    _say(f"{entry.title} is already prepared in '{directory}'.")
    return
  _check_packages()
  if manual_dir:
    _check_manual(entry, pathlib.Path(manual_dir).expanduser())
  elif not entry.url:
    raise UserError(
      f"{entry.title} cannot be downloaded by a program. {entry.note} Then give the folder with "
      f"{_names(entry.archives)} as --manual_dir=FOLDER."
    )
  elif not _downloaded(entry, root):
    _check_server(entry)
  _check_disk(entry, root, manual_dir)
  _announce(entry, directory, manual_dir)
  started = time.monotonic()
  _build(entry, root, manual_dir)
  prepared.check(entry, root)
  _say(
    f"Prepared {entry.title}: {entry.num_train:,} training and {entry.num_test:,} test images in "
    f"'{directory}', {time.monotonic() - started:.0f} s."
  )


_WITHOUT_PREPARATION = {
  "digits": "it is part of scikit-learn.",
  "folder": "set data.data_dir to the folder with train/<class>/ and test/<class>/ (or val/).",
}


def _build(entry, root, manual_dir):
  """Runs the builder of tensorflow-datasets, which renames the finished set into place."""
  import tensorflow_datasets as tfds

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  root.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix="prepare-", suffix=".tmp", dir=root) as scratch:
    scratch = pathlib.Path(scratch)
    manual = pathlib.Path(manual_dir).expanduser() if manual_dir else None
    if manual and entry.name == "fashion_mnist" and debian.is_repacked(manual):
      _say(f"'{manual}' holds Debian's re-packed archives; restoring the original ones.")
      restored = scratch / "manual"
      restored.mkdir()
      debian.restore(manual, restored)
      manual = restored
    download = tfds.download.DownloadConfig(manual_dir=manual, extract_dir=scratch / "extracted")
    # Before the stand-in: this asks whether TensorFlow is loaded and would then want all of it.
    builder = tfds.builder(f"{entry.tfds_name}:{entry.version}", data_dir=root, file_format="array_record")
    chatter = contextlib.redirect_stdout(io.StringIO())  # "Unknown size"; the bars are on standard error
    with _plain_errors(entry), tf_free.tensorflow_or_stand_in(), chatter:
      builder.download_and_prepare(download_config=download)
  with contextlib.suppress(OSError):  # kept unless empty
    (root / "downloads").rmdir()


@contextlib.contextmanager
def _plain_errors(entry):
  """Turns failures of the archives, the network and the disk into one paragraph."""
  import requests
  from tensorflow_datasets.core.download import download_manager, extractor, util

  try:
    yield
  except (download_manager.NonMatchingChecksumError, extractor.ExtractError) as error:
    raise UserError(
      f"An archive of '{entry.name}' is not the original file: it is damaged or incomplete. Fetch it "
      f"again ({_sizes(entry)}). Details: {_one_line(error)}"
    ) from error
  except (requests.exceptions.RequestException, util.DownloadError) as error:
    raise UserError(
      f"The download of '{entry.name}' failed: {_one_line(error)}. Try again later, or fetch "
      f"{_names(entry.archives)} elsewhere and give their folder as --manual_dir=FOLDER."
    ) from error
  except OSError as error:
    raise UserError(f"Preparing '{entry.name}' failed on the file system: {_one_line(error)}.") from error


def _check_packages():
  missing = [pip for module, pip in PACKAGES.items() if importlib.util.find_spec(module) is None]
  if missing:
    raise UserError(
      f"Preparing needs the packages {', '.join(missing)}: pip install {' '.join(missing)}. "
      "(array_record exists for Linux only; elsewhere use the data sets 'digits' or 'folder'.)"
    )


def _check_disk(entry, root, manual_dir):
  existing = next(folder for folder in (root, *root.parents) if folder.exists())
  if not existing.is_dir():
    raise UserError(f"--data_dir='{root}' cannot be a folder: '{existing}' is a file. Choose another one.")
  archives = sum(entry.archives.values()) / MB
  # Shuffling writes every example once more; archives are unpacked next to it, ImageNet's are not.
  unpacked = archives if entry.url else 0
  needed = 2 * entry.prepared_mb + unpacked + (0 if manual_dir else archives)
  free = shutil.disk_usage(existing).free / MB
  if free < needed:
    raise UserError(
      f"Preparing '{entry.name}' needs about {needed:,.0f} MB, but '{existing}' has {free:,.0f} MB free. "
      "Choose another disk with --data_dir=DIR."
    )


def _check_manual(entry, folder):
  missing = [name for name in entry.archives if not (folder / name).is_file()]
  if missing:
    raise UserError(f"--manual_dir='{folder}' lacks {_names(missing)}. Needed: {_sizes(entry)}. {entry.note}")
  if entry.url:
    return  # tensorflow-datasets checks these against their SHA-256
  for name, size in entry.archives.items():
    found = (folder / name).stat().st_size
    if found < size:
      raise UserError(
        f"'{folder / name}' has {found:,} bytes, the original {size:,}: the download is not complete. "
        "Fetch it again."
      )


def _downloaded(entry, root):
  """True if a former run has downloaded all archives already."""
  folder = root / "downloads" / entry.tfds_name
  files = [path for path in folder.glob("*") if path.is_file() and path.suffix != ".INFO"]
  return len(files) >= len(entry.archives)


def _check_server(entry):
  """Five seconds instead of the minutes that the download tool spends on silent retries."""
  url = urllib.parse.urlsplit(entry.url)
  proxy = urllib.request.getproxies().get(url.scheme)
  if proxy and not urllib.request.proxy_bypass(url.hostname):
    url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
  port = url.port or {"https": 443}.get(url.scheme, 80)
  try:
    socket.create_connection((url.hostname, port), timeout=PROBE_SECONDS).close()
  except OSError as error:
    raise UserError(
      f"'{entry.name}' is not prepared and its server cannot be reached: {url.hostname} port {port}: "
      f"{_one_line(error)}. Without network: copy {_names(entry.archives)} into a folder of this "
      f"machine and give it as --manual_dir=FOLDER. {entry.note}"
    ) from error


def _announce(entry, directory, manual_dir):
  origin = f"from '{manual_dir}'" if manual_dir else f"from {entry.url}"
  _say(f"Preparing {entry.title} {origin}: {_sizes(entry)}; prepared about {entry.prepared_mb:,} MB.")
  _say(f"Goes to '{directory}'. Another place: --data_dir=DIR.")
  if not manual_dir and entry.note:
    _say(entry.note)


def _sizes(entry):
  return ", ".join(f"{name} ({size / MB:,.1f} MB)" for name, size in entry.archives.items())


def _names(names):
  return ", ".join(names)


def _one_line(error):
  return " ".join(str(error).split())


def _say(text):
  sys.stdout.write(text + "\n")
  sys.stdout.flush()


if __name__ == "__main__":
  sys.exit(main())

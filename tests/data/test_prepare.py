"""Preparing and reading: tiny archives of the real layouts, end to end, then damaged."""

import dataclasses
import io
import shutil
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from convnn_jax import data
from convnn_jax.data import prepare
from convnn_jax.data.catalog import CATALOG
from convnn_jax.errors import UserError

CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CMYK_NAME = "n01739381_1309.JPEG"  # one of the names that the ImageNet builder converts
PNG_NAME = "n02105855_2933.JPEG"


def add(tar, name, content):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


# ---------------------------------------------------------------- CIFAR-10, 30 + 8 images


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
  """A manual_dir with a small archive of CIFAR-10's layout; returns (folder, images, labels)."""
  import tensorflow_datasets as tfds

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (38, 32, 32, 3), dtype=np.uint8)
  labels = rng.integers(0, 10, 38, dtype=np.uint8)
  rows = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(38, -1)], axis=1)
  folder = tmp_path / "manual"
  folder.mkdir()
  with tarfile.open(folder / CIFAR_ARCHIVE, "w:gz") as tar:
    for i in range(5):
      add(tar, f"cifar-10-batches-bin/data_batch_{i + 1}.bin", rows[6 * i : 6 * i + 6].tobytes())
    add(tar, "cifar-10-batches-bin/test_batch.bin", rows[30:].tobytes())
    names = "\n".join(f"class{i}" for i in range(10))
    add(tar, "cifar-10-batches-bin/batches.meta.txt", names.encode())
  builder = tfds.builder_cls("cifar10")
  (url,) = builder.url_infos
  facts = tfds.download.checksums.compute_url_info(folder / CIFAR_ARCHIVE)
  facts = dataclasses.replace(facts, filename=CIFAR_ARCHIVE)
  monkeypatch.setattr(builder, "url_infos", {url: facts})
  monkeypatch.setitem(CATALOG, "cifar10", dataclasses.replace(CATALOG["cifar10"], num_train=30, num_test=8))
  return folder, images, labels


def sort_pairs(images, labels):
  """Examples in an order that does not depend on how they were shuffled."""
  return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_prepare_and_read_in_memory(section, tmp_path, tiny_cifar, run):
  folder, images, labels = tiny_cifar
  root = tmp_path / "data"
  code, out, err = run("cifar10", f"--data_dir={root}", f"--manual_dir={folder}")
  assert code == 0, err
  assert "30 training and 8 test images" in out
  assert [path.name for path in root.iterdir()] == ["cifar10"]  # nothing temporary is left
  assert "tensorflow" not in sys.modules

  dataset = data.open_dataset(section(name="cifar10", data_dir=str(root)))
  assert sort_pairs(dataset.train.images, dataset.train.labels) == sort_pairs(images[:30], labels[:30])
  assert sort_pairs(dataset.test.images, dataset.test.labels) == sort_pairs(images[30:], labels[30:])
  assert dataset.train.labels.dtype == np.int32

  code, out, _ = run("cifar10", f"--data_dir={root}")
  assert code == 0
  assert "already prepared" in out


@pytest.fixture
def prepared_cifar(tmp_path, tiny_cifar):
  """A data_dir with the tiny CIFAR-10 prepared."""
  prepare.prepare("cifar10", tmp_path / "data", tiny_cifar[0])
  return tmp_path / "data"


def records_file(root):
  (path,) = (root / "cifar10/3.0.2").glob("*train.array_record*")
  return path


def cut(path, share):
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


DAMAGES = {
  "no facts": lambda root: (root / "cifar10/3.0.2/dataset_info.json").unlink(),
  "half the facts": lambda root: cut(root / "cifar10/3.0.2/dataset_info.json", 0.5),
  "no features": lambda root: (root / "cifar10/3.0.2/features.json").unlink(),
  "no records": lambda root: records_file(root).unlink(),
  "half the records": lambda root: cut(records_file(root), 0.5),
  "empty records": lambda root: cut(records_file(root), 0),
}


def test_damaged_sets_are_user_errors(section, tmp_path, prepared_cifar, run):
  for name, damage in DAMAGES.items():
    root = tmp_path / name.replace(" ", "-")
    shutil.copytree(prepared_cifar, root)
    damage(root)
    with pytest.raises(UserError, match="is damaged: .* prepare it again") as caught:
      data.open_dataset(section(name="cifar10", data_dir=str(root)))
    assert f"--data_dir={root}" in str(caught.value), name
  code, _, err = run("cifar10", f"--data_dir={tmp_path / 'no-facts'}")
  assert code == 2
  assert "is damaged" in err


def test_another_format_and_another_count_are_user_errors(section, prepared_cifar, monkeypatch):
  config = section(name="cifar10", data_dir=str(prepared_cifar))
  monkeypatch.setitem(CATALOG, "cifar10", dataclasses.replace(CATALOG["cifar10"], num_train=31))
  with pytest.raises(UserError, match="split 'train' has 30 examples, not 31"):
    data.open_dataset(config)
  facts = prepared_cifar / "cifar10/3.0.2/dataset_info.json"
  facts.write_text(facts.read_text().replace('"array_record"', '"tfrecord"'))
  with pytest.raises(UserError, match="prepared as tfrecord"):
    data.open_dataset(config)


def test_an_interrupted_preparation_leaves_nothing(tmp_path, tiny_cifar, run, monkeypatch):
  from tensorflow_datasets.image_classification import cifar

  def interrupted(*_):
    yield np.zeros(1, np.uint8), np.zeros((32, 32, 3), np.uint8)
    raise KeyboardInterrupt

  monkeypatch.setattr(cifar, "_load_data", interrupted)
  code, _, err = run("cifar10", f"--data_dir={tmp_path / 'data'}", f"--manual_dir={tiny_cifar[0]}")
  assert code == 130
  assert "nothing half prepared is left" in err
  assert not list((tmp_path / "data").rglob("*.*"))


# ---------------------------------------------------------------- ImageNet, 6 + 4 images


def encode(kind, size, value, mode="RGB"):
  """A flat image as bytes."""
  buffer = io.BytesIO()
  Image.new(mode, size, (value,) * len(mode)).save(buffer, kind)
  return buffer.getvalue()


def test_prepare_and_stream(section, tmp_path, run, monkeypatch):
  folder = tmp_path / "manual"
  folder.mkdir()
  classes = {
    "n01739381": {
      CMYK_NAME: encode("JPEG", (40, 30), 0, "CMYK"),
      "n01739381_1.JPEG": encode("JPEG", (50, 30), 40),
    },
    "n02105855": {PNG_NAME: encode("PNG", (30, 30), 80), "n02105855_1.JPEG": encode("JPEG", (33, 70), 80)},
  }
  with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as tar:
    for synset, files in classes.items():
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode="w") as inner_tar:
        for name, content in files.items():
          add(inner_tar, name, content)
      add(tar, f"{synset}.tar", inner.getvalue())
  with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
    for i in range(1, 4):
      add(tar, f"ILSVRC2012_val_{i:08d}.JPEG", encode("JPEG", (64, 48), 60 * i))
  sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
  entry = dataclasses.replace(CATALOG["imagenet"], num_train=4, num_test=3, archives=sizes, prepared_mb=1)
  monkeypatch.setitem(CATALOG, "imagenet", entry)
  root = tmp_path / "data"
  code, _, err = run("imagenet", f"--data_dir={root}", f"--manual_dir={folder}")
  assert code == 0, err

  config = section(name="imagenet", data_dir=str(root), image_size=24, augment=("crop", "flip"))
  dataset = data.open_dataset(config)
  assert dataset.train.kind == "stream"
  assert (dataset.train.crop, dataset.test.crop) == ("random", "center")
  images, _ = dataset.train.load([0, 1, 2, 3], draws=np.random.default_rng(0).random((4, 4)))
  assert images.shape == (4, 24, 24, 3)
  # White (CMYK without ink), 40, 80 (PNG), 80, in the order of the shuffled records.
  np.testing.assert_allclose(sorted(images.mean(axis=(1, 2, 3))), [40, 80, 80, 255], atol=2)
  images, labels = dataset.test.load([0, 1, 2])
  # The labels of the first three validation images: sea snake, alp, Shetland sheepdog.
  found = {round(float(image.mean()) / 60): int(label) for image, label in zip(images, labels, strict=True)}
  assert found == {1: 65, 2: 970, 3: 230}

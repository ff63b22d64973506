"""Fashion-MNIST out of Debian's package: prepared, read, compared with the raw files."""

import gzip
import pathlib

import numpy as np
import pytest

from convnn_jax import data
from convnn_jax.data import prepare

DEBIAN = pathlib.Path("/usr/share/datasets/fashion-mnist")


def read_raw(part):
  """(images uint8 [n 28 28 1], labels uint8 [n]) straight from the packed files."""
  images = np.frombuffer(
    gzip.decompress((DEBIAN / f"{part}-images-idx3-ubyte.gz").read_bytes())[16:], np.uint8
  )
  labels = np.frombuffer(
    gzip.decompress((DEBIAN / f"{part}-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8
  )
  return images.reshape(-1, 28, 28, 1), labels


def sort_pairs(images, labels):
  return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs `apt-get install dataset-fashion-mnist`")
def test_every_image_and_label_arrives(section, tmp_path, capsys):
  assert prepare.main(["fashion_mnist", f"--data_dir={tmp_path}", f"--manual_dir={DEBIAN}"]) == 0
  assert "60,000 training and 10,000 test images" in capsys.readouterr().out
  dataset = data.open_dataset(section(name="fashion_mnist", data_dir=str(tmp_path), image_size=28))
  for split, part, n in ((dataset.train, "train", 60_000), (dataset.test, "t10k", 10_000)):
    assert len(split) == n
    assert split.images.shape == (n, 28, 28, 1)
    # Preparing shuffles: the sets of (image, label) must be equal, all of them.
    assert sort_pairs(split.images, split.labels) == sort_pairs(*read_raw(part))
  scaled = dataset.train.images / np.float32(255)
  np.testing.assert_allclose(scaled.mean(), dataset.info.mean[0], atol=1e-4)
  np.testing.assert_allclose(scaled.std(), dataset.info.std[0], atol=1e-4)

"""Facts, opening, folders and what is said when a set cannot be opened."""

import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from convnn_jax import data
from convnn_jax.data import decode, digits
from convnn_jax.data.catalog import CATALOG
from convnn_jax.errors import UserError


@pytest.mark.parametrize("name", sorted(set(CATALOG) - {"folder"}))
def test_info_is_known_without_any_file(section, tmp_path, name):
  info = data.info(section(name=name, data_dir=str(tmp_path), image_size=64))
  entry = CATALOG[name]
  channels = 1 if "mnist" in name or name == "digits" else 3
  assert info.image_shape == (64, 64, channels)
  assert (info.num_train, info.num_test) == (entry.num_train, entry.num_test)
  assert len(info.mean) == len(info.std) == channels
  assert info.source_shape[2] == channels
  assert info.storage == ("stream" if name == "imagenet" else "memory")


def test_digits(section):
  dataset = data.open_dataset(section())
  assert len(dataset.train) == dataset.info.num_train == 1437
  assert len(dataset.test) == dataset.info.num_test == 360
  for split in (dataset.train, dataset.test):
    assert split.images.dtype == np.uint8
    assert split.images.shape == (len(split), 8, 8, 1)
    assert split.labels.dtype == np.int32
  assert dataset.train.images.max() == 255
  images, labels = load_all_digits()
  np.testing.assert_array_equal(dataset.test.labels, labels[::5])
  np.testing.assert_array_equal(dataset.train.images[:4], images[1:5])


def load_all_digits():
  train, test = digits.load_split("train"), digits.load_split("test")
  order = np.argsort(np.concatenate([np.delete(np.arange(1797), slice(0, None, 5)), np.arange(0, 1797, 5)]))
  return tuple(np.concatenate(parts)[order] for parts in zip(train, test, strict=True))


def test_the_stored_statistics_of_digits_are_those_of_its_training_images():
  images, _ = digits.load_split("train")
  np.testing.assert_allclose((images / 255).mean(), CATALOG["digits"].mean[0], atol=5e-5)
  np.testing.assert_allclose((images / 255).std(), CATALOG["digits"].std[0], atol=5e-5)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"name": "cifar1O"}, "Unknown data set 'cifar1O'. Did you mean 'cifar10'"),
    ({"augment": ("crop", "flop")}, "Unknown augmentation 'flop'. Did you mean 'flip'"),
    ({"augment": "crop"}, "a tuple of words"),
    ({"normalization": "imgnet"}, "Did you mean 'imagenet'"),
    ({"normalization": "imagenet"}, "images of 'digits' have 1"),
    ({"image_size": 0}, "image_size=0"),
    ({"crop_padding": -1}, "crop_padding=-1"),
    ({"name": "folder"}, "needs its path"),
  ],
)
def test_mistakes_in_the_section(section, fields, message):
  with pytest.raises(UserError, match=message.replace("(", r"\(")):
    data.info(section(**fields))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "imagenet"])
def test_unprepared_sets_say_how_to_prepare_them(section, tmp_path, name):
  with pytest.raises(UserError) as caught:
    data.open_dataset(section(name=name, data_dir=str(tmp_path)))
  message = str(caught.value)
  assert f"python -m convnn_jax.data.prepare {name} --data_dir={tmp_path}" in message
  assert "--manual_dir" in message
  assert "--config=<config>:digits" in message
  assert "\n" not in message


def test_the_place_of_prepared_sets_comes_from_the_environment(section, tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(UserError, match=f"'{tmp_path}/mnist/3.0.1' does not exist.*prepare mnist`"):
    data.open_dataset(section(name="mnist"))


def test_neither_digits_nor_an_unprepared_set_imports_tensorflow_datasets():
  program = """
import sys
from configs import base
from convnn_jax import data
section = base.get_config().data
section.update(name="digits", data_dir="/nowhere", image_size=8, normalization="half")
data.open_dataset(section)
try:
  section.name = "cifar10"
  data.open_dataset(section)
except ValueError as error:
  print(error)
print("tensorflow_datasets" in sys.modules)
"""
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout.startswith("The data set 'cifar10' is not prepared")
  assert done.stdout.endswith("False\n")


# ---------------------------------------------------------------- folders


def write_folder(root, test_name="test", size=(20, 12)):
  """Two classes, three training images and one test image each; class b is brighter."""
  for split, count in (("train", 3), (test_name, 1)):
    for label, name in enumerate(("a", "b")):
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        image = np.full((size[1], size[0], 3), 100 * label + 10 * i, np.uint8)
        suffix = ("png", "jpg", "bmp")[i]
        Image.fromarray(image).save(root / split / name / f"{i}.{suffix}")
  return root


def batch_sharding():
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
  return NamedSharding(mesh, PartitionSpec("data"))


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_end_to_end(section, tmp_path, test_name):
  config = section(
    name="folder", data_dir=str(write_folder(tmp_path, test_name)), image_size=16, augment=("crop", "flip")
  )
  dataset = data.open_dataset(config)
  info = dataset.info
  assert (info.num_classes, info.num_train, info.num_test) == (2, 6, 2)
  assert info.source_shape == info.image_shape == (16, 16, 3)
  assert info.mean == (0.485, 0.456, 0.406)
  batches = data.train_batches(dataset.train, seed=0, batch_size=6, start_step=0, sharding=batch_sharding())
  images, labels = data.fetch({}, next(batches))
  batches.close()
  order = data.epoch_order(0, 0, 6)
  np.testing.assert_array_equal(labels, order // 3)
  np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 100 * (order // 3) + 10 * (order % 3), atol=2)
  (batch,) = data.eval_batches(dataset.test, batch_size=2, sharding=batch_sharding())
  np.testing.assert_array_equal(batch["label"], [0, 1])
  x = data.augment(images, jax.random.key(0), config, info)
  assert x.shape == (6, 16, 16, 3)
  np.testing.assert_allclose(x, data.normalise(images, config, info), atol=1e-6)  # flat: flip is invisible


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda root: (root / "test").rename(root / "tset"), r"lacks a folder train/ or a folder test/"),
    (lambda root: [p.unlink() for p in (root / "train/b").iterdir()], "holds no images"),
    (lambda root: (root / "test/b").rename(root / "test/bb"), "Did you mean 'b'"),
    (lambda root: (root / "train").rename(root / "Train"), "lacks a folder train/"),
    (lambda root: [shutil.rmtree(p) for p in (root / "test").iterdir()], "no class folder with images"),
    (
      lambda root: (root / "train/a/gone.png").symlink_to(root / "nothing"),
      "link to a file that is not there",
    ),
  ],
)
def test_mistakes_in_a_folder(section, tmp_path, change, message):
  change(write_folder(tmp_path))
  with pytest.raises(UserError, match=message):
    data.info(section(name="folder", data_dir=str(tmp_path)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_broken_image_is_named(section, tmp_path, suffix, keep):
  (broken,) = write_folder(tmp_path).glob(f"train/a/*.{suffix}")
  content = broken.read_bytes()
  broken.write_bytes(content[: int(keep * len(content))])
  dataset = data.open_dataset(section(name="folder", data_dir=str(tmp_path)))
  with pytest.raises(UserError, match=str(broken)):
    dataset.train.load(np.arange(6))


# ---------------------------------------------------------------- decoding


def test_boxes_stay_inside_and_cover_the_published_range():
  draws = np.random.default_rng(0).random((500, 4))
  areas = []
  for row in draws:
    top, left, height, width = decode.random_box((60, 90, 3), row)
    assert 0 <= top <= top + height <= 60
    assert 0 <= left <= left + width <= 90
    areas.append(height * width / 5400)
  assert 0.07 < min(areas) < 0.12
  assert max(areas) > 0.9
  assert decode.center_box((60, 90, 3), 1.0) == (0, 15, 60, 60)
  assert decode.center_box((256, 256, 3), 0.875) == (16, 16, 224, 224)


@pytest.mark.parametrize("size", [8, 24, 40])
def test_opencv_and_pillow_agree(monkeypatch, size):
  pytest.importorskip("cv2")
  y, x = np.mgrid[:30, :24]
  image = np.stack([y * 8, x * 10, (y + x) * 4], axis=-1).astype(np.uint8)
  encoded = encode_png(image)
  box = (2, 0, 24, 24)
  with_cv2 = decode.resize(decode.decode(encoded), box, size)
  monkeypatch.setattr(decode, "_cv2", lambda: None)
  np.testing.assert_array_equal(decode.decode(encoded), image)
  with_pillow = decode.resize(decode.decode(encoded), box, size)
  assert with_cv2.shape == with_pillow.shape == (size, size, 3)
  inner = np.s_[1:-1, 1:-1]
  np.testing.assert_allclose(with_cv2[inner].astype(int), with_pillow[inner].astype(int), atol=4)


def encode_png(image):
  """uint8 [y x 3] -> PNG bytes."""
  import io

  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()

"""The data sets: names, versions, sizes, statistics, and where the files come from.

Counts and versions are those of the tensorflow-datasets catalog; archive names and sizes are the ones it
has on record with their SHA-256 (ImageNet: as image-net.org serves them). Of the sizes once prepared only
Fashion-MNIST's is measured; the others are estimates for the check of the disk.
"""

import dataclasses

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # as in torchvision, over the training images
IMAGENET_STD = (0.229, 0.224, 0.225)

# What `config.normalization` may say: (mean, std) on the scale 0 to 1; None = the data set's own.
NORMALIZATIONS = {
  "dataset": None,
  "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
  "half": ((0.5,), (0.5,)),
  "mnist": (
    (0.1307,),
    (0.3081,),
  ),  # as PyTorch's MNIST example has them; some studies use them for every data set
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One data set.

  Attributes:
    source: "digits" (embedded), "folder", or "tfds" (prepared by tensorflow-datasets).
    channels: 1 or 3.
    source_shape: (Y, X, c) of every stored image; None where sizes differ, which means that images
      are decoded per batch instead of once.
    version, tfds_name, splits: the prepared set, and its names for ("train", "test").
    archives: original files by name; their size in bytes.
    url: scheme://host they come from, "" if they must be fetched by hand.
    prepared_mb: size on disk once prepared, 10^6 bytes.
    center_fraction: share of the shorter side that evaluation sees (streams only).
  """

  name: str
  title: str
  source: str
  channels: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  num_classes: int = 0
  num_train: int = 0
  num_test: int = 0
  source_shape: tuple[int, int, int] | None = None
  tfds_name: str = ""
  version: str = ""
  splits: tuple[str, str] = ("train", "test")
  archives: dict[str, int] = dataclasses.field(default_factory=dict)
  url: str = ""
  prepared_mb: int = 0
  center_fraction: float = 1.0
  note: str = ""


_MNIST_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def _mnist_archives(*sizes):
  return {f"{name}-ubyte.gz": size for name, size in zip(_MNIST_FILES, sizes, strict=True)}


def _cifar(classes, mean, std, archive_bytes):
  name = f"cifar{classes}"
  return Entry(
    name=name,
    title=f"CIFAR-{classes}",
    source="tfds",
    channels=3,
    mean=mean,
    std=std,
    num_classes=classes,
    num_train=50_000,
    num_test=10_000,
    source_shape=(32, 32, 3),
    tfds_name=name,
    version="3.0.2",
    archives={f"cifar-{classes}-binary.tar.gz": archive_bytes},
    url="https://www.cs.toronto.edu",
    prepared_mb=140,
    note="The server www.cs.toronto.edu is slow: reported at about 55 kB/s in 2026, nearly an hour.",
  )


_ENTRIES = (
  Entry(
    name="digits",
    title="scikit-learn digits",
    source="digits",
    channels=1,
    mean=(0.3053,),  # over the 1,437 training images; tests/data/test_datasets.py computes them again
    std=(0.3762,),
    num_classes=10,
    num_train=1_437,
    num_test=360,
    source_shape=(8, 8, 1),
  ),
  Entry(
    name="mnist",
    title="MNIST",
    source="tfds",
    channels=1,
    mean=(0.1307,),
    std=(0.3081,),
    num_classes=10,
    num_train=60_000,
    num_test=10_000,
    source_shape=(28, 28, 1),
    tfds_name="mnist",
    version="3.0.1",
    archives=_mnist_archives(9_912_422, 28_881, 1_648_877, 4_542),
    url="https://storage.googleapis.com",
    prepared_mb=25,
  ),
  Entry(
    name="fashion_mnist",
    title="Fashion-MNIST",
    source="tfds",
    channels=1,
    mean=(0.2860,),
    std=(0.3530,),
    num_classes=10,
    num_train=60_000,
    num_test=10_000,
    source_shape=(28, 28, 1),
    tfds_name="fashion_mnist",
    version="3.0.1",
    archives=_mnist_archives(26_421_880, 29_515, 4_422_102, 5_148),
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    prepared_mb=42,
    note="Debian's package dataset-fashion-mnist holds the same files: install it and give its "
    "folder as --manual_dir.",
  ),
  _cifar(10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 170_052_171),
  _cifar(100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 168_513_733),
  Entry(
    name="imagenet",
    title="ImageNet-1k (ILSVRC 2012)",
    source="tfds",
    channels=3,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    num_classes=1_000,
    num_train=1_281_167,
    num_test=50_000,
    tfds_name="imagenet2012",
    version="5.1.0",
    splits=("train", "validation"),
    archives={"ILSVRC2012_img_train.tar": 147_897_477_120, "ILSVRC2012_img_val.tar": 6_744_924_160},
    prepared_mb=167_000,
    center_fraction=0.875,  # 224 of 256, as in the usual evaluation
    note="Its licence asks every user to register at image-net.org and to download by hand.",
  ),
  Entry(
    name="folder",
    title="folder of images",
    source="folder",
    channels=3,
    mean=IMAGENET_MEAN,  # a folder's own statistics would need a pass over all images
    std=IMAGENET_STD,
  ),
)

CATALOG = {entry.name: entry for entry in _ENTRIES}

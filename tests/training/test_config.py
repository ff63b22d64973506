"""Loading, overriding, saving and comparing configs, and every mistake a user can make in one."""

import ast
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import base
from convnn_jax.errors import UserError
from convnn_jax.training import config as config_lib
from convnn_jax.training import exchange
from convnn_jax.training.assemble import assemble

K9 = "configs/convnn_k9.py"


def test_overrides_keep_their_types():
  config = config_lib.load(
    f"{K9}:digits",
    [
      "--config.optimizer.learning_rate=3e-4",
      "--config.seed",
      "7",
      "--config.data.augment=('crop','flip')",
      "--config.model.attention.quirks=('scrambled_heads',)",
      "--config.model.attention.similarity=cosine",
      "--config.model.attention.split_heads=false",
    ],
  )
  assert config.optimizer.learning_rate == 3e-4
  assert config.seed == 7
  assert config.data.augment == ("crop", "flip")
  assert config.model.attention.quirks == ("scrambled_heads",)
  assert config.model.attention.similarity == "cosine"
  assert config.model.attention.split_heads is False


def test_another_attention_brings_its_own_fields():
  config = config_lib.load(f"{K9}:digits", ["--config.model.attention.name=softmax"])
  attention = config.model.attention
  assert attention.name == "softmax"
  assert "num_neighbors" not in attention
  assert attention.num_heads == 1  # both have it: kept
  assert attention.qkv_bias is False  # default of the new one
  later = ["--config.model.attention.qkv_bias=true", "--config.model.attention.name=softmax"]
  assert config_lib.load(f"{K9}:digits", later).model.attention.qkv_bias is True


BRANCHING = "configs/branching_attention.py:digits"


def test_specs_inside_a_spec_are_completed_and_overridden():
  attention = config_lib.load(BRANCHING, ["--config.model.attention.first.num_neighbors=4"]).model.attention
  assert attention.first.num_neighbors == 4
  assert attention.first.temperature == 1.0  # a default that the config does not name
  assert attention.second.qkv_bias is False


def test_an_attention_inside_another_is_exchanged():
  words = ["--config.model.attention.first.scale=0.5", "--config.model.attention.first.name=knn"]
  attention = config_lib.load(BRANCHING, words).model.attention
  assert attention.first.to_dict() == dict(
    name="knn", num_heads=1, num_neighbors=9, scale=0.5, dropout_rate=0.1, qkv_bias=False, out_bias=False
  )
  assert attention.second.name == "softmax"
  whole = config_lib.load(BRANCHING, ["--config.model.attention.name=softmax"]).model.attention
  assert "first" not in whole


def test_an_attention_of_two_comes_in_by_its_name_alone():
  word = "--config.model.attention.name=branching"
  attention = config_lib.load(f"{K9}:digits", [word]).model.attention
  assert (attention.first.name, attention.first.num_neighbors) == ("convnn", 9)
  assert (attention.second.name, attention.second.qkv_bias) == ("softmax", False)
  words = [
    "--config.model.attention.second.num_neighbors=4",
    word,
    "--config.model.attention.second.name=knn",
  ]
  attention = config_lib.load(f"{K9}:digits", words).model.attention
  assert (attention.first.name, attention.second.name, attention.second.num_neighbors) == ("convnn", "knn", 4)


def test_a_model_without_attention_and_back():
  config = config_lib.load(f"{K9}:digits", ["--config.model.name=cnn", "--config.model.hidden_dim=16"])
  assert config.model.to_dict() == dict(
    name="cnn", stem_channels=(32, 64), hidden_dim=16, stem_dropout_rate=0.25, hidden_dropout_rate=0.5
  )
  words = [
    "--config.model.attention.name=knn",
    "--config.model.name=vit",
    "--config.model.attention.num_neighbors=3",
  ]
  model = config_lib.load("configs/cnn.py:digits", words).model
  assert (model.attention.num_neighbors, model.attention.num_heads, model.patch_size) == (3, 3, 16)
  hybrid = config_lib.load(
    "configs/deepvit.py:digits", ["--config.model.name=hybrid", "--config.model.patch_size=0"]
  )
  assert hybrid.model.attention.name == "reattention"  # both have one: kept
  assert hybrid.model.stem_channels == (32, 64)


@pytest.mark.parametrize(
  ("path", "overrides", "message"),
  [
    ("configs/convn_k9.py", [], "Did you mean 'configs/convnn_k9.py'"),
    (f"{K9}:digit", [], "Unknown data preset 'digit'. Did you mean 'digits'"),
    (f"{K9}:digits", ["--config.modle.x=1"], "Unknown field of config: 'modle'. Did you mean 'model'"),
    (f"{K9}:digits", ["--config.optimizer.lr=1"], "Did you mean 'learning_rate'"),
    (f"{K9}:digits", ["--config.model.attention.k=1"], "Unknown field of config.model.attention: 'k'"),
    (f"{K9}:digits", ["--config.attention.k=1"], "Unknown field of config: 'attention'"),
    (f"{K9}:digits", ["--config.num_neighbors=4"], "Did you mean 'config.model.attention.num_neighbors'"),
    (f"{K9}:digits", ["--config.attention.name=knn"], "Did you mean 'config.model.attention.name'"),
    (f"{K9}:digits", ["--config.batch_size=abc"], "config.batch_size='abc' must be of type int, such as 32"),
    (f"{K9}:digits", ["--config.batch_size=1.5"], "batch_size='1.5' must be of type int"),
    (f"{K9}:digits", ["--config.seed"], "has no value"),
    (f"{K9}:digits", ["--config.seed.x=1"], "is a value, it has no field 'x'"),
    (f"{K9}:digits", ["--config.model=3"], "is a section; set one of its fields"),
    (f"{K9}:digits", ["--confg.seed=3"], "Unknown argument '--confg.seed=3'"),
    (f"{K9}:digits", ["--config.model.attention.name=sotfmax"], "Did you mean 'softmax'"),
    (f"{K9}:digits", ["--config.model.attention.split_heads=maybe"], "'maybe' must be of type bool"),
    (f"{K9}:digits", ["--config.optimizer.learning_rate=x"], "='x' must be of type float, such as 0.003"),
    (BRANCHING, ["--config.model.attention.first.name=knm"], "Did you mean 'knn'"),
    (BRANCHING, ["--config.model.attention.first.k=3"], "Unknown field of config.model.attention.first: 'k'"),
    (BRANCHING, ["--config.model.attention.first=knn"], "is a section"),
    ("configs/cnn.py", ["--config.model.attention.name=knn"], "Unknown field of config.model: 'attention'"),
    ("configs/cnn.py", ["--config.model.name=cnnn"], "Did you mean 'cnn'"),
    ("configs/cnn.py", ["--config.model.width=3"], "Unknown field of config.model: 'width'"),
  ],
)
def test_mistakes_in_names_and_kinds(path, overrides, message):
  with pytest.raises(UserError, match=message):
    config_lib.load(path, overrides)


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("model.attention.num_neighbors=1000", r"num_neighbors=1000 must lie in \[1, 17\]"),
    ("model.attention.similarity=cos", "Unknown similarity 'cos'. Did you mean 'cosine'"),
    ("model.attention.quirks=('scramble',)", "Unknown quirk 'scramble'"),
    ("model.attention.num_heads=7", "num_heads=7 must divide the width 64"),
    ("model.attention.coordinate_encoding=true", "a depthwise convolution cannot"),
    ("model.attention.candidates=random", r"num_candidates=32 must lie in \[1, 17\]"),
    ("model.attention.dropout_rate=1.0", "rate=1.0 must lie in"),
    ("model.patch_size=3", "patch_size=3 must divide"),
    ("batch_size=0", "batch_size=0 must be at least 1"),
    ("batch_size=100", "batch_size=100 must be divisible by the 8 devices"),
    ("batch_size=4096", "batch_size=4096 must be at most 1437"),
    ("num_epochs=0", "num_epochs=0 must be at least 1"),
    ("dtype=float16", "Unknown dtype 'float16'"),
    ("mesh.data=3", "does not fit the 8 devices"),
    ("mesh.fsdp=-1", "only one of them may be -1"),
    ("optimizer.name=adamm", "Did you mean 'adam"),
    ("optimizer.schedule=cos", "Did you mean 'cosine'"),
    ("optimizer.learning_rate=-1.0", "must be larger than 0"),
    ("optimizer.learning_rate=nan", "learning_rate=nan must be a finite number"),
    ("optimizer.warmup_epochs=inf", "warmup_epochs=inf must be a finite number"),
    ("model.attention.temperature=nan", "temperature=nan must be a finite number"),
    ("model.attention.temperature=1e-300", "temperature=1e-300 must be at least 1e-6"),
    ("model.attention.value_features=-5", "value_features=-5 must be at least 0"),
    ("optimizer.decay_every=0.0", "decay_every=0.0 must be larger than 0"),
    ("optimizer.decay_factor=-1.0", "decay_factor=-1.0 must be larger than 0"),
    ("optimizer.final_learning_rate=-1.0", "final_learning_rate=-1.0 must be at least 0"),
    ("seed=4294967296", "must be less than"),
    ("optimizer.warmup_epochs=40.0", "the whole run has 1100"),
    ("optimizer.accumulate=3", "accumulate=3 must be at least 1 and divide"),
    ("optimizer.ema_decay=1.5", r"ema_decay=1.5 must lie in \[0, 1\)"),
    ("loss.name=ce", "Unknown loss 'ce'"),
    ("loss.label_smoothing=1.0", "must lie in"),
    ("data.augment=('crop','rotate')", "rotate"),
    ("data.name=cifar", "cifar10"),
    ("model.patch_norm=before", "Unknown patch_norm 'before'"),
    ("model.num_positions=3", "num_positions=3 must be 0"),
    ("model.pooling=max", "Unknown pooling 'max'"),
  ],
)
def test_impossible_values_are_named_before_anything_is_read(override, message):
  with pytest.raises(UserError, match=message):
    assemble(config_lib.load(f"{K9}:digits", [f"--config.{override}"]))


@pytest.mark.parametrize(
  ("path", "words", "hint"),
  [
    (
      "configs/cct_2_3x2.py:digits",
      ["--config.model.name=vit"],
      "Known: .* pooling='sequence' was carried over from 'cct'; give another by --config.model.pooling=VALUE.",
    ),
    (
      "configs/vit_softmax.py:digits",
      ["--config.model.attention.name", "knn"],
      "num_neighbors=100 is the default of 'knn'; give another by --config.model.attention.num_neighbors=VALUE.",
    ),
    (
      BRANCHING,
      ["--config.model.attention.second.name=knn"],
      "by --config.model.attention.second.num_neighbors=",
    ),
    ("configs/vit_softmax.py:digits", ["--config.model.attention.num_heads=7"], r"(?m)possible: [0-9, ]*\.$"),
    (
      "configs/vit_softmax.py:digits",
      ["--config.model.attention.name=knn", "--config.model.attention.num_neighbors=100"],
      r"(?m)larger image\.$",  # as given
    ),
  ],
)
def test_a_mistake_that_an_exchange_made_says_where_the_value_comes_from(path, words, hint):
  with pytest.raises(UserError, match=hint), exchange.explaining(path, words):
    assemble(config_lib.load(path, words))


START = "from configs import base\ndef get_config():\n  config = base.get_config()\n"
END = "  return base.with_data(config, 'digits')\n"


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("def get_config(:\n", "own.py.*SyntaxError"),
    ("import nonexistent_module\n", "own.py, line 1: ModuleNotFoundError"),
    (START + "  return 1 / 0\n", "own.py, line 4: ZeroDivisionError"),
    ("get_config = 3\n", "has no function get_config"),
    ("def get_config():\n  return None\n", "must return a ConfigDict, not NoneType"),
    (START + "  config.optimizer.lr = 1.0\n" + END, "config.optimizer: 'lr'. Did you mean 'learning_rate'"),
    (START + "  del config.dtype\n" + END, "config has no field 'dtype'"),
    (START + "  config.model.attention = 'softmax'\n" + END, "own.py, line 4: TypeError"),
    (
      START + "  config.model.attention = dict(name='convnn', num_neighbors='9')\n" + END,
      "must be of type int",
    ),
    (
      START + "  config.model.attention = dict(name='convnn', quirks='self_fill')\n" + END,
      r"quirks of attention 'convnn'='self_fill' must be of type tuple, such as \('self_fill',\)",
    ),
    (
      START + "  config.model.attention = dict(name='convnn', num_neigbors=9)\n" + END,
      "Did you mean 'num_neighbors'",
    ),
    (START + "  config.model.attention = dict(num_heads=3)\n" + END, "Unknown attention ''"),
  ],
)
def test_mistakes_in_a_config_file(text, message, tmp_path):
  (tmp_path / "own.py").write_text(text)
  with pytest.raises(UserError, match=message):
    config_lib.load(str(tmp_path / "own.py"))


def test_an_argument_that_a_config_does_not_take(tmp_path):
  (tmp_path / "own.py").write_text(START + END)
  assert config_lib.load(str(tmp_path / "own.py")).data.name == "digits"
  with pytest.raises(UserError, match="takes no argument"):
    config_lib.load(f"{tmp_path}/own.py:cifar10")
  with pytest.raises(UserError, match="is not a Python file"):
    config_lib.load("README.md")


def test_json_round_trip_and_differences():
  config = config_lib.load(f"{K9}:digits")
  again = config_lib.from_json(config_lib.to_json(config))
  assert config_lib.differences(config, again) == []
  changed = config_lib.load(f"{K9}:digits", ["--config.seed=3", "--config.data.data_dir=elsewhere"])
  assert config_lib.differences(again, changed) == ["seed: 42 -> 3"]  # where data lie may differ


@pytest.mark.parametrize(
  ("path", "name"),
  [(K9, "convnn_k9"), (f"{K9}:digits", "convnn_k9-digits"), (f"{K9}:folder=a/b c", "convnn_k9-folder-a-b-c")],
)
def test_run_names(path, name):
  assert config_lib.name_of(path) == name


def test_every_field_of_base_is_read_somewhere():
  """A flag that nothing reads is a lie."""
  sources = "".join(p.read_text() for p in pathlib.Path("convnn_jax").rglob("*.py"))
  words = {n.attr for n in ast.walk(ast.parse(sources)) if isinstance(n, ast.Attribute)}
  words |= {n.value for n in ast.walk(ast.parse(sources)) if isinstance(n, ast.Constant)}

  def leaves(section):
    for key, value in section.items():
      yield from leaves(value) if isinstance(value, ConfigDict) else (key,)

  unread = [leaf for leaf in leaves(base.get_config()) if leaf not in words]
  assert not unread


SWIN = "configs/swin_nano.py:digits"


def test_an_attention_of_stages_takes_a_value_per_stage_or_one():
  attention = config_lib.load(SWIN).model.attention
  assert attention.num_heads == (2, 4)
  assert attention.qk_residual is False  # a default that the config does not name
  one = config_lib.load(SWIN, ["--config.model.attention.num_heads=2", "--config.model.window_size=2"])
  assert (one.model.attention.num_heads, one.model.window_size) == ((2,), (2,))
  exchanged = config_lib.load(SWIN, ["--config.model.attention.name=softmax"]).model.attention
  assert (exchanged.num_heads, exchanged.dropout_rate) == ((2, 4), 0.1)  # kept, and the new one's default
  config = config_lib.load(SWIN)
  with config.unlocked():
    config.model.attention = dict(name="convnn", num_heads=(2, "4"))
  with pytest.raises(UserError, match="num_heads of attention 'convnn'='4' must be of type int"):
    config_lib.complete(config)
  with pytest.raises(UserError, match="num_heads of attention 'window'"):
    config_lib.load(SWIN, ["--config.model.name=vit"])  # no stages there

"""A sweep of seconds: two temperatures, two seeds, and a softmax baseline."""

from configs import base


def get_config(data="digits"):
  config = base.get_config()
  config.model.attention = dict(name="convnn", num_heads=1, num_neighbors=3)
  config = base.with_data(config, data)
  config.batch_size, config.num_epochs, config.log_every, config.eval_batch_size = 128, 1, 1, 360
  config.optimizer.warmup_epochs = 0.0
  config.model.update(width=16, depth=1, mlp_dim=16, patch_size=4)
  return config


def sweep():
  for temperature in (0.5, 2.0):
    for seed in (0, 1):
      yield {"model.attention.temperature": temperature, "seed": seed}


def baseline():
  return {"model.attention": dict(name="softmax", num_heads=2)}

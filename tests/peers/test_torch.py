"""Our attentions against PyTorch, in float64, outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnn_jax.attention import make_attention

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch", reason="needs requirements-peers.txt")

B, N, C, K = 2, 13, 24, 5


def as_torch(tree):
  return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), tree)


def literal_convnn(params, x, heads):
  """The layer step by step: compare, choose, weight, lay neighbours side by side, convolve with stride k."""
  d = C // heads
  project = lambda name: torch.einsum("bnc,chd->bhnd", x, params[name]["kernel"])
  query, key, value = project("query"), project("key"), project("value")
  values, index = torch.topk(query @ key.transpose(-1, -2) * d**-0.5, K, dim=-1)
  weights = torch.softmax(values, dim=-1)
  rows = value.unsqueeze(2).expand(-1, -1, N, -1, -1)
  chosen = torch.gather(rows, 3, index.unsqueeze(-1).expand(-1, -1, -1, -1, d)) * weights.unsqueeze(-1)
  sequence = chosen.reshape(B * heads, N * K, d).transpose(1, 2)
  kernel = params["convolution"]["kernel"]
  if kernel.ndim == 2:
    out = torch.nn.functional.conv1d(sequence, kernel.T.unsqueeze(1), stride=K, groups=d)
  else:
    out = torch.nn.functional.conv1d(sequence, kernel.permute(2, 1, 0), stride=K)
  out = out.reshape(B, heads, d, N).permute(0, 3, 1, 2)
  return torch.einsum("bnhd,hdc->bnc", out, params["out"]["kernel"])


def softmax_attention(params, x, heads):
  """PyTorch's own scaled dot-product attention."""
  project = lambda name: torch.einsum("bnc,chd->bhnd", x, params[name]["kernel"])
  out = torch.nn.functional.scaled_dot_product_attention(*map(project, ("query", "key", "value")))
  return torch.einsum("bhnd,hdc->bnc", out, params["out"]["kernel"])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(
  ("spec", "reference"),
  [
    (dict(name="softmax"), softmax_attention),
    (dict(name="convnn", num_neighbors=K), literal_convnn),
    (dict(name="convnn", num_neighbors=K, convolution="standard"), literal_convnn),
  ],
  ids=["softmax", "convnn-depthwise", "convnn-standard"],
)
def test_equals_pytorch(spec, reference, heads):
  with jax.enable_x64(True):
    module = make_attention({**spec, "num_heads": heads})
    rng = np.random.default_rng(0)
    x, cotangent = rng.normal(size=(2, B, N, C))
    variables = module.init(jax.random.key(0), jnp.asarray(x), train=False)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) / 3), variables["params"])
    forward = lambda params, x: module.apply({"params": params}, x, train=False)
    value = lambda params, x: jnp.sum(forward(params, x) * cotangent)
    out = forward(params, jnp.asarray(x))
    grads = jax.grad(value, argnums=(0, 1))(params, jnp.asarray(x))

  their_params, their_x = as_torch(params), torch.tensor(x, requires_grad=True)
  theirs = reference(their_params, their_x, heads)
  theirs.backward(torch.tensor(cotangent))
  np.testing.assert_allclose(out, theirs.detach(), atol=1e-10)
  np.testing.assert_allclose(grads[1], their_x.grad, atol=1e-10)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b.grad, atol=1e-10), grads[0], their_params)

"""Networks that are written in Flax NNX, as teachers and students.

  class Net(nnx.Module):
    def __init__(self, num_classes, *, rngs): ...
    def __call__(self, images, *, train): ...

  Student = functools.partial(nnx_network.NNX, network=Net)

Its name in a configuration is `my_module:Student`.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, ClassVar

from flax import nnx
import flax.linen as nn
from flax.nnx import bridge
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap


class NNX(nn.Module):
  """A Linen module around an NNX module, which keeps its variables.

  Parameters are nnx.Param, running statistics nnx.BatchStat; nnx.Dropout draws
  from the stream 'dropout' of the module's `rngs`.

  Attributes:
    num_classes: K.
    network: The class of the NNX module, or what makes one. It is called with
      `num_classes` and `rngs`. The module maps images [N,H,W,3] f32 and `train`
      to the logits [N,K], or to a dict of taps with 'logits' among them.
    task: The task that the network is for, as `tasks.find` names it.
  """

  task: ClassVar[str] = 'classification'

  num_classes: int
  network: Callable[..., Any]

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3].

    Raises:
      UsageError: The module returns neither logits nor a dict with them.
    """
    module = bridge.ToLinen(
      functools.partial(_made, self.network, self.num_classes),
      metadata_fn=None,  # plain arrays
      name='nnx',
    )
    outputs = module(images, train=train)
    if not isinstance(outputs, Mapping):
      outputs = {'logits': outputs}
    shape = getattr(outputs.get('logits'), 'shape', None)
    if shape != (len(images), self.num_classes):
      raise errors.UsageError(
        f'the NNX module gives logits of the shape {shape} for images '
        f'{images.shape} and {self.num_classes} classes; return the logits '
        "[N,K], or a dict of taps with 'logits'"
      )
    for name, value in outputs.items():
      tap(self, name, value)
    return outputs['logits'].astype(jnp.float32)


def _made(network: Callable[..., Any], num_classes: int, *, rngs: Any) -> Any:
  """Returns the NNX module, with a key for dropout where none is given.

  Linen initialises a module with the key of its parameters alone.
  """
  has_key = 'params' in rngs or 'default' in rngs
  key = rngs.params() if has_key else jax.random.key(0)
  dropout = rngs.dropout() if 'dropout' in rngs else key
  streams = nnx.Rngs(key, params=key, dropout=dropout)
  return network(num_classes=num_classes, rngs=streams)

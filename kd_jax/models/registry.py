"""Networks by name."""

from collections.abc import Callable
import dataclasses
import functools
import inspect
import math
import types
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import domains, errors, features
from kd_jax.models import (
  convnext,
  deeplab,
  densenet,
  efficientnet,
  googlenet,
  mobilenet,
  pyramidnet,
  regnet,
  resnet,
  shufflenet,
  ssd,
  swin,
  vgg,
  vit,
  wide_resnet,
)
from kd_jax.runtime import jaxprs

NETWORKS: dict[str, Callable[..., nn.Module]] = {
  name: factory
  for module in (
    resnet,
    wide_resnet,
    vgg,
    ssd,
    mobilenet,
    shufflenet,
    pyramidnet,
    densenet,
    googlenet,
    deeplab,
    vit,
    swin,
    convnext,
    efficientnet,
    regnet,
  )
  for name, factory in module.NETWORKS.items()
}


class Function(nn.Module):
  """A network without parameters, which wraps a function of images.

  It makes a teacher of any JAX function; its only tap is 'logits'.

  Attributes:
    num_classes: K.
    function: Maps normalised images [N,H,W,3] f32 to logits [N,K]. It is traced
      by JAX, as it runs inside the training step.
  """

  num_classes: int
  function: Callable[[jax.Array], jax.Array]

  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,K] f32 of normalised images [N,H,W,3].

    Raises:
      UsageError: The function returns another shape.
    """
    logits = self.function(images)
    shape = getattr(logits, 'shape', type(logits).__name__)
    if shape != (len(images), self.num_classes):
      raise errors.UsageError(
        f'{self.function.__qualname__} gives {shape} for images '
        f'{images.shape}; there are {self.num_classes} classes'
      )
    return features.tap(self, 'logits', logits.astype(jnp.float32))


def make(name: str, num_classes: int, **kwargs: Any) -> nn.Module:
  """Returns a network by name.

  Args:
    name: A name in `NETWORKS`, or 'package.module:Class' for a Flax module, or
      'package.module:function' for a `Function`.
    num_classes: K.
    **kwargs: Fields of the network's class that replace its defaults.

  Raises:
    UsageError: The name or a field is unknown, or a value is not allowed.
  """
  factory = _factory(name)
  network_class = _class(factory)
  if network_class is None:
    if kwargs:
      raise errors.UsageError(
        f'{name} is a function of images and has no argument '
        f'{", ".join(kwargs)}; leave it out'
      )
    return Function(num_classes, factory)
  fields = {f.name for f in dataclasses.fields(network_class)}
  fields -= {'parent', 'name'}
  for field in kwargs:
    if field not in fields:
      unknown = errors.unknown(f'argument of network {name}:', field, fields)
      raise errors.ArgumentError(
        f"{field}={kwargs[field]!r}: {unknown}; if it is a recipe's, for its "
        'own network, args={} drops it'
      )
  values = {'num_classes': num_classes, **kwargs}
  bound = getattr(factory, 'keywords', {})
  needed = {
    f.name
    for f in dataclasses.fields(network_class)
    if f.init and f.default is f.default_factory is dataclasses.MISSING
  }
  if 'num_classes' not in fields or needed - {*values, *bound}:
    lacking = ', '.join(sorted(needed - {*values, *bound}))
    raise errors.UsageError(
      f'{name} is no network that a run can make: '
      + (f'give {lacking}' if lacking else 'it has no field num_classes')
    )
  domains.check_fields(network_class, values, domains.NETWORKS)
  return factory(**values)


def is_function(name: str) -> bool:
  """Returns whether a name stands for a function of images, without fields.

  Raises:
    UsageError: The name is unknown.
  """
  return _class(_factory(name)) is None


def _factory(name: str) -> Any:
  """Returns what makes a network, or a function of images.

  Raises:
    UsageError: The name is unknown, or stands for something else.
  """
  if ':' in name:
    factory = errors.imported(*name.split(':', 1))
    if _class(factory) is None and not _takes_images(factory):
      kind = type(factory).__name__
      raise errors.UsageError(
        f'{name} is no network, but a {kind}; name a class of '
        'flax.linen.Module or a function of images'
      )
    return factory
  if name in NETWORKS:
    return NETWORKS[name]
  raise errors.unknown('network', name, NETWORKS)


def task(network: nn.Module) -> str:
  """Returns the task that a network is for, as `tasks.find` names it.

  A module of one's own says it by an attribute `task`; without one it is a
  classifier.
  """
  return getattr(network, 'task', 'classification')


def _class(factory: Any) -> type[nn.Module] | None:
  """Returns the class of networks that is named, or bound to arguments."""
  made = factory.func if isinstance(factory, functools.partial) else factory
  if isinstance(made, type) and issubclass(made, nn.Module):
    return made
  return None


def _takes_images(function: Any) -> bool:
  """Returns whether something can be called with images alone."""
  unfit = isinstance(function, type | nn.Module | types.BuiltinFunctionType)
  if unfit or not callable(function):
    return False
  try:
    inspect.signature(function).bind(None)
  except (TypeError, ValueError):
    return False
  return True


def image_size(network: nn.Module) -> int:
  """Returns the height and width in pixels that a network is designed for.

  A network that takes no other says it by an attribute `image_size`, another
  may say it by `native_size`.
  """
  for attribute in ('image_size', 'native_size'):
    if hasattr(network, attribute):
      return getattr(network, attribute)
  stem = getattr(network, 'stem', '')
  if task(network) == 'segmentation':
    return 48 if stem == 'strided' else 513
  return 224 if stem in ('imagenet', 'deep') else 32


class Description(NamedTuple):
  """The costs and the taps of a network.

  Attributes:
    params: The number of parameters.
    flops: The FLOPs of the forward pass of an image; see `jaxprs.flops`.
    taps: The shape of every tap without N, in the order of computation.
  """

  params: int
  flops: float
  taps: dict[str, tuple[int, ...]]


class LastMaps(NamedTuple):
  """The taps of a network's last map, by what it is for.

  They differ where a convolution without a stage of its own stands before the
  pooling, as in MobileNetV2 and ShuffleNetV2.

  Attributes:
    stages: The taps 'stage1', ... of all stages; the last is after the norm
      (and ReLU) that follow the last stage of a pre-activation network or Swin.
    pooled: The tap of the map that is pooled and classified.
  """

  stages: tuple[str, ...]
  pooled: str


def last_maps(network: nn.Module) -> LastMaps | None:
  """Returns the taps of a network's last map, found by their names and shapes.

  Args:
    network: The network.

  Returns:
    The taps; None if the network has no taps 'stage1', 'stage2', ...
  """
  size = getattr(network, 'image_size', 64)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

  def init(image):
    variables = network.init(
      jax.random.key(0), image, train=False, mutable=True
    )
    return dict(variables).get('intermediates', {})

  shapes = jax.eval_shape(init, image)
  count = 0
  while f'stage{count + 1}' in shapes:
    count += 1
  if not count:
    return None
  last = f'stage{count}'
  post = features.after_activation(shapes, last)
  stages = tuple(f'stage{i}' for i in range(1, count))
  whole = f'{last}_post' if f'{last}_post' in shapes else last
  return LastMaps((*stages, post or last), whole)


def describe(network: nn.Module, size: int) -> Description:
  """Returns the description of a network without running it.

  Args:
    network: The network.
    size: The height and width of its images, in pixels.
  """

  def init(image):
    collections = dict(
      network.init(jax.random.key(0), image, train=False, mutable=True)
    )
    names.extend(collections.setdefault('intermediates', {}))
    return collections

  names: list[str] = []
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  variables = jax.eval_shape(init, image)
  shapes = variables.pop('intermediates')

  def forward(variables, image):
    return network.apply(variables, image, train=False)

  return Description(
    params=sum(
      math.prod(x.shape) for x in jax.tree.leaves(variables.get('params', {}))
    ),
    flops=jaxprs.flops(jax.make_jaxpr(forward)(variables, image)),
    taps={name: shapes[name].shape[1:] for name in names},
  )

"""SSD: a detector that corrects and classifies a grid of priors.

Maps of several strides, the sources, each give four offsets and the logits of
the background and of K classes for every prior of every position. Behind the
backbone's maps come the extras, pairs of convolutions that halve the side.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016; ssd.pytorch
5b0b77f for VGG16. With a ResNet it is our reconstruction of the detectors that
OFD distils, whose code is not public: the sources are the backbone's last three
stages as they are, and the extras are normalised.
"""

from collections.abc import Callable
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import boxes, errors
from kd_jax.features import tap
from kd_jax.losses import basic
from kd_jax.models import deeplab, layers, resnet

Maps = dict[str, jax.Array]


class L2Norm(nn.Module):
  """Scales every position's channels to a length, which is learnt by channel.

  A position whose channels are all 0 has the gradient 0, where the original's
  is NaN.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [N,H,W,C] f32 for x [N,H,W,C]."""
    initial = nn.initializers.constant(20.0)
    scale = self.param('scale', initial, (x.shape[-1],))
    return basic.softened(x, 1e-10) * scale[None, None, None, :]


def vgg_maps(
  images: jax.Array,
  widths: tuple[tuple[int, ...], ...],
  hidden: int,
  dtype: jnp.dtype,
  *,
  train: bool,
) -> Maps:
  """Returns the maps of a VGG whose last layers are convolutions.

  Args:
    images: Normalised images, [N,H,W,3] f32.
    widths: See `SSDVGG`.
    hidden: See `SSDVGG`.
    dtype: The dtype of the computation.
    train: Whether the network trains; it makes no difference.

  Returns:
    See `SSD.trunk`.
  """
  del train
  conv = functools.partial(
    layers.Conv, dtype=dtype, bias_init=nn.initializers.zeros
  )
  x = images.astype(dtype)
  maps: Maps = {}
  for i, of_stage in enumerate(widths):
    stage = f'stage{i}' if i else 'stem'
    if i:  # a pool that keeps an odd last row and column
      odd = [(0, side % 2) for side in x.shape[1:3]]
      x = nn.max_pool(x, (2, 2), (2, 2), odd)
    for j, width in enumerate(of_stage, 1):
      pre = conv(width, 3, name=f'{stage}_block{j}')(x)
      x = nn.relu(pre)
    maps |= {f'{stage}_pre': pre, stage: x}
  x = nn.max_pool(x, (3, 3), (1, 1), 'SAME')
  x = nn.relu(conv(hidden, 3, dilation=6, name='conv6')(x))
  pre = conv(hidden, 1, name='conv7')(x)
  del maps['stem_pre']
  return {**maps, f'{stage}_pre': pre, stage: nn.relu(pre)}


class SSD(layers.Network, kw_only=True):
  """The base of the SSDs: images [N,H,W,3] to logits [N,P,K+1] f32.

  Beside the taps of a classifier's stages there are 'source{i}', 'offsets'
  [N,P,4], 'logits' [N,P,K+1] with the background first, and 'priors' [N,P,4] in
  centre form. 'pooled' is the mean of the backbone's last stage.

  Attributes:
    extras: The channels of the 1x1 convolution and of the 3x3 convolution of
      each extra. The latter has no padding where that gives the next source its
      side, else the stride 2.
    priors: The priors, which say how large images and sources are.
  """

  task: ClassVar[str] = 'detection'
  normalised: ClassVar[bool] = True  # whether extras have BatchNorms, or biases

  extras: tuple[tuple[int, int], ...] = ()
  priors: boxes.Priors = boxes.SSD300

  @property
  def image_size(self) -> int:
    """The height and width of images, in pixels; there is no other."""
    return self.priors.size

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone's layers and runs them.

    It maps normalised images [N,H,W,3] f32 and `train` to 'stem', and to
    'stage{i}_pre' and 'stage{i}' of every stage, [N,h,w,C] each.
    """
    raise NotImplementedError

  def first_sources(self, maps: Maps) -> list[jax.Array]:
    """Returns the sources that the backbone's maps are, [N,h,w,C] each."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,P,K+1] f32 of normalised images [N,H,W,3].

    Raises:
      UsageError: The images or the maps do not have the priors' sides.
    """
    self._check(images.shape[1:3], (self.image_size,) * 2, 'images')
    maps = deeplab.Backbone(self.trunk(), name='backbone')(images, train=train)
    sources = self.first_sources(maps)
    for i, widths in enumerate(self.extras, 1):
      side = self.priors.sides[min(len(sources), len(self.priors.sides) - 1)]
      sources.append(self._extra(i, widths, sources[-1], side, train=train))
    self._check(
      tuple(x.shape[1] for x in sources), self.priors.sides, 'sources'
    )
    for name, x in maps.items():
      tap(self, name, x)
    for i, x in enumerate(sources, 1):
      tap(self, f'source{i}', x)
    *_, last = maps.values()
    tap(self, 'pooled', last.astype(jnp.float32).mean(axis=(1, 2)))
    count = images.shape[0]
    priors = jnp.broadcast_to(
      jnp.array(self.priors.boxes)[None], (count, *self.priors.boxes.shape)
    )
    tap(self, 'priors', priors)
    tap(self, 'offsets', self._heads('offsets', 4, sources))
    return tap(
      self, 'logits', self._heads('logits', self.num_classes + 1, sources)
    )

  def _check(
    self, got: tuple[int, ...], want: tuple[int, ...], what: str
  ) -> None:
    if got != want:
      raise errors.UsageError(
        f'{type(self).__name__}: {what} of {got} pixels a side, where the '
        f'priors are for {want}: give images of {self.image_size} pixels, or '
        'other priors'
      )

  def _extra(
    self,
    i: int,
    widths: tuple[int, int],
    x: jax.Array,
    side: int,
    *,
    train: bool,
  ) -> jax.Array:
    """Returns an extra's map after its last ReLU, which has the side `side`."""
    shrinks = side == x.shape[1] - 2
    geometry = ((1, 1, 0), (3, 1, 0) if shrinks else (3, 2, 1))
    plan = zip(widths, geometry, strict=True)
    for j, (width, (kernel, stride, padding)) in enumerate(plan, 1):
      convolution = layers.Conv(
        width,
        kernel,
        stride,
        padding=padding,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=None if self.normalised else nn.initializers.zeros,
        name=f'extra{i}_conv{j}',
      )
      if self.normalised:
        norm = self.norm(name=f'extra{i}_bn{j}')
        x = nn.relu(layers.conv_bn(x, convolution, norm, train=train))
      else:
        x = nn.relu(convolution(x))
    return x

  def _heads(
    self, name: str, values: int, sources: list[jax.Array]
  ) -> jax.Array:
    """Returns what a convolution of each source says of its priors.

    Args:
      name: The name of the layers, before the source's number.
      values: The values for each prior, V.
      sources: The sources, [N,h,w,C] each.

    Returns:
      [N,P,V] f32, by source, row, column and prior.
    """
    results = []
    pairs = zip(sources, self.priors.anchors, strict=True)
    for i, (x, anchors) in enumerate(pairs, 1):
      y = layers.Conv(
        anchors * values,
        3,
        dtype=self.dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        bias_init=nn.initializers.zeros,
        name=f'{name}{i}',
      )(x)
      count = y.shape[1] * y.shape[2] * anchors
      y = y.astype(jnp.float32).reshape(y.shape[0], count, values)
      results.append(y)
    return jnp.concatenate(results, axis=1)


class SSDVGG(SSD):
  """An SSD with a VGG without BatchNorm as its backbone; see `SSD`.

  The stages end with conv2_2, conv3_3, conv4_3 and conv7. The last layers of
  the VGG are convolutions, of which the first is dilated by 6. ssd.pytorch's
  weights read images with the mean (123, 117, 104)/255 and the deviation 1/255.

  Attributes:
    widths: The channels of every layer of the stem and of four stages.
    hidden: The channels of conv6 and conv7.
  """

  normalised: ClassVar[bool] = False

  widths: tuple[tuple[int, ...], ...]
  hidden: int = 1024

  def __post_init__(self):
    """Raises UsageError if a stage is missing or empty."""
    if len(self.widths) != 5 or not all(self.widths):
      raise errors.ArgumentError(
        f'widths={self.widths}: a VGG needs those of the stem and of 4 stages'
      )
    super().__post_init__()

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone; see `SSD.trunk`."""
    return functools.partial(
      vgg_maps, widths=self.widths, hidden=self.hidden, dtype=self.dtype
    )

  def first_sources(self, maps: Maps) -> list[jax.Array]:
    """Returns the last two stages, of which the first is normalised."""
    return [L2Norm(name='l2norm')(maps['stage3']), maps['stage4']]


class SSDResNet(SSD):
  """An SSD with a ResNet as its backbone; see `SSD`.

  The sources are the stages from the second on, and the extras.

  Attributes:
    stage_sizes: See `resnet.ResNet`.
    widths: See `resnet.ResNet`.
    bottleneck: See `resnet.ResNet`.
    stem: See `resnet.ResNet`.
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool = False
  stem: resnet.Stem = 'imagenet'

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    self.plan.check()
    super().__post_init__()

  @property
  def plan(self) -> resnet.Plan:
    """What the backbone's stages are made of."""
    return resnet.Plan(
      self.stage_sizes, self.widths, self.bottleneck, self.stem
    )

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone; see `SSD.trunk`."""
    return functools.partial(
      resnet.trunk, plan=self.plan, norm=self.norm, dtype=self.dtype
    )

  def first_sources(self, maps: Maps) -> list[jax.Array]:
    """Returns the stages from the second on."""
    count = len(self.stage_sizes)
    return [maps[f'stage{i}'] for i in range(2, count + 1)]


def _resnet(bottleneck: bool, *sizes: int) -> Callable[..., SSDResNet]:
  return functools.partial(
    SSDResNet,
    stage_sizes=sizes,
    widths=(64, 64, 128, 256, 512),
    bottleneck=bottleneck,
    extras=((256, 512), (128, 256), (128, 256)),
  )


def _scenes(**fields: Any) -> Callable[..., SSDResNet]:
  return functools.partial(
    SSDResNet, stem='strided', priors=boxes.SCENES, **fields
  )


NETWORKS: dict[str, Callable[..., SSD]] = {
  'ssd300_vgg16': functools.partial(
    SSDVGG,
    widths=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    extras=((256, 512), (128, 256), (128, 256), (128, 256)),
  ),
  'ssd300_resnet18': _resnet(False, 2, 2, 2, 2),
  'ssd300_resnet50': _resnet(True, 3, 4, 6, 3),
  # For images of 48 pixels: a student and its teacher.
  'ssd48_resnet10': _scenes(
    stage_sizes=(1, 1, 1, 1), widths=(16, 16, 32, 48, 64)
  ),
  'ssd48_resnet18': _scenes(
    stage_sizes=(2, 2, 2, 2), widths=(24, 24, 48, 64, 96)
  ),
}

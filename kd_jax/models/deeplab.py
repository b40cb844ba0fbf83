"""DeepLabV3+ for semantic segmentation: a class for every image and pixel.

A backbone gives a map at the output stride and one of a quarter of the image's
side. Atrous spatial pyramid pooling (ASPP) reads the former at several
distances and the decoder joins it with the latter.

Source: Chen et al., ECCV 2018; overhaul-distillation 76344a8 (Segmentation,
built on jfzhang95's pytorch-deeplab-xception), which we follow. There the
teacher's dropout is active while it teaches; here a teacher has none, as it
runs in evaluation mode.
"""

from collections.abc import Callable, Mapping
import functools
from typing import Any, ClassVar, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models import layers, mobilenet, resnet

Dropout = Literal['all', 'decoder', 'none']
Maps = dict[str, jax.Array]


class Backbone(nn.Module):
  """The stages of a network, whose layers have the backbone's name.

  Attributes:
    trunk: A function of images and `train` that makes the layers and returns
      the maps; see `resnet.trunk`.
  """

  trunk: Callable[..., Maps]

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> Maps:
    """Returns the maps of normalised images [N,H,W,3]."""
    return self.trunk(images, train=train)


class Head(nn.Module):
  """The fields and the layers that ASPP and the decoder share.

  Attributes:
    width: The channels of the result, and of all convolutions but one.
    norm: The constructor of a BatchNorm.
    dtype: The dtype of the computation.
  """

  width: int
  norm: Callable[..., nn.Module]
  dtype: jnp.dtype

  def normalised(
    self, x: jax.Array, name: str, kernel: int = 1, *, train: bool, **fields
  ) -> jax.Array:
    """Returns a convolution of x [N,H,W,C] with a BatchNorm, [N,H,W,O].

    Args:
      x: The map.
      name: The name of the layers, behind 'conv' and 'bn'.
      kernel: The side of the kernel, in pixels.
      train: Whether the network trains.
      **fields: Further fields of `layers.Conv`; the features are `width`.
    """
    convolution = layers.Conv(
      **{'features': self.width, **fields},
      kernel_size=kernel,
      dtype=self.dtype,
      kernel_init=layers.he_init,
      name=f'conv{name}',
    )
    return layers.conv_bn(
      x, convolution, self.norm(name=f'bn{name}'), train=train
    )


class ASPP(Head):
  """Atrous spatial pyramid pooling, without its last ReLU.

  Attributes:
    dilations: The dilations of the 3x3 convolutions.
  """

  dilations: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns [N,H,W,width] for the map x [N,H,W,C]."""
    normalised = functools.partial(self.normalised, train=train)
    branches = [normalised(x, '1')]
    for i, dilation in enumerate(self.dilations, 2):
      branches.append(normalised(x, f'{i}', 3, dilation=dilation))
    pooled = normalised(x.mean(axis=(1, 2), keepdims=True), '_pool')
    branches.append(layers.resize(pooled, *x.shape[1:3]))
    joined = nn.relu(jnp.concatenate(branches, axis=-1))
    return normalised(joined, '_last')


class Decoder(Head):
  """The decoder, which gives scores at the side of the low map.

  Attributes:
    num_classes: K.
    low_width: The channels to which the low map is reduced.
    dropout: Whether units are dropped in training.
  """

  num_classes: int = 0
  low_width: int = 0
  dropout: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, low: jax.Array, *, train: bool) -> Maps:
    """Joins ASPP's map with the backbone's low map.

    Args:
      x: ASPP's map, [N,h,w,C].
      low: The low map, [N,H,W,c].
      train: Whether the network trains.

    Returns:
      'decoder_pre', the map before its last ReLU, [N,H,W,width], 'decoder', the
      same after it, and 'scores', [N,H,W,K] f32.
    """

    def dropped(x, rate):
      active = train and self.dropout
      return nn.Dropout(rate, deterministic=not active)(x)

    normalised = functools.partial(self.normalised, train=train)
    low = nn.relu(normalised(low, '_low', features=self.low_width))
    x = layers.resize(x, *low.shape[1:3])
    x = nn.relu(normalised(jnp.concatenate([x, low], axis=-1), '1', 3))
    pre = normalised(dropped(x, 0.5), '2', 3)
    scores = layers.Conv(
      self.num_classes,
      1,
      dtype=self.dtype,
      kernel_init=layers.he_init,
      bias_init=layers.torch_bias_init(self.width),
      name='scores',
    )(dropped(nn.relu(pre), 0.1))
    scores = scores.astype(jnp.float32)
    return {'decoder_pre': pre, 'decoder': nn.relu(pre), 'scores': scores}


class DeepLab(layers.Network, kw_only=True):
  """The base of the DeepLabs: images [N,H,W,3] to logits [N,H,W,K] f32.

  Beside the taps of a classifier's stages there are 'aspp_pre', 'aspp',
  'decoder_pre', 'decoder', and 'scores' [N,h,w,K], which become the logits when
  they are resized to the images' sides. 'pooled' is the mean of the last stage.

  Attributes:
    output_stride: The stride of the backbone's last map, in pixels.
    dilations: The dilations of ASPP's 3x3 convolutions; the original's are
      twice these at the output stride 8.
    aspp_width: The channels of ASPP.
    low_width: The channels to which the decoder reduces the low map.
    decoder_width: The channels of the decoder.
    dropout: What is dropped in training: 'all' drops half of ASPP's units, and
      a half and a tenth of the decoder's, as in the original where a network
      trains alone; 'decoder' only the decoder's, as where OFD distils; 'none'
      none.
  """

  task: ClassVar[str] = 'segmentation'

  output_stride: int = 16
  dilations: tuple[int, ...] = (6, 12, 18)
  aspp_width: int = 256
  low_width: int = 48
  decoder_width: int = 256
  dropout: Dropout = 'all'

  def __post_init__(self):
    """Raises UsageError if the kind of dropout is unknown."""
    layers.check_choice('dropout', self.dropout, get_args(Dropout))
    super().__post_init__()

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone; see `Backbone`."""
    raise NotImplementedError

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits [N,H,W,K] f32 of normalised images [N,H,W,3].

    Raises:
      UsageError: In training, ASPP's mean over space would be normalised by a
        single image.
    """
    if train and not self.is_initializing():
      self._check_batch(len(images))
    maps = Backbone(self.trunk(), name='backbone')(images, train=train)
    *_, x = maps.values()
    head: dict[str, Any] = {'norm': self.norm, 'dtype': self.dtype}
    pre = ASPP(self.aspp_width, dilations=self.dilations, **head, name='aspp')(
      x, train=train
    )
    active = train and self.dropout == 'all'
    aspp = nn.relu(pre)
    decoded = Decoder(
      self.decoder_width,
      num_classes=self.num_classes,
      low_width=self.low_width,
      dropout=self.dropout != 'none',
      **head,
      name='decoder',
    )(
      nn.Dropout(0.5, deterministic=not active)(aspp),
      maps['stage1'],
      train=train,
    )
    maps |= {'aspp_pre': pre, 'aspp': aspp, **decoded}
    for name, value in maps.items():
      tap(self, name, value)
    tap(self, 'pooled', x.astype(jnp.float32).mean(axis=(1, 2)))
    logits = layers.resize(decoded['scores'], *images.shape[1:3])
    return tap(self, 'logits', logits)

  def _check_batch(self, count: int) -> None:
    group = min(self.bn_group_size or count, count)
    if group < 2 and self.batch_norm != 'running':
      raise errors.UsageError(
        f'a batch of {count} with bn_group_size={self.bn_group_size}: a '
        'DeepLab normalises its mean over space by 2 images or more; give a '
        "larger batch (and group), or batch_norm='running'"
      )


class DeepLabResNet(DeepLab):
  """A DeepLabV3+ with a ResNet as its backbone; see `DeepLab`.

  Attributes:
    stage_sizes: See `resnet.ResNet`.
    widths: See `resnet.ResNet`.
    bottleneck: See `resnet.ResNet`.
    stem: See `resnet.ResNet`.
    grid: See `resnet.ResNet`.
  """

  stage_sizes: tuple[int, ...]
  widths: tuple[int, ...]
  bottleneck: bool = False
  stem: resnet.Stem = 'imagenet'
  grid: tuple[int, ...] = ()

  def __post_init__(self):
    """Raises UsageError if the fields contradict each other."""
    self.plan.check()
    super().__post_init__()

  @property
  def plan(self) -> resnet.Plan:
    """What the backbone's stages are made of."""
    return resnet.Plan(*(getattr(self, name) for name in resnet.Plan._fields))

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone; see `Backbone`."""
    return functools.partial(
      resnet.trunk, plan=self.plan, norm=self.norm, dtype=self.dtype
    )


class DeepLabMobileNetV2(DeepLab):
  """A DeepLabV3+ with a MobileNetV2 as its backbone; see `DeepLab`.

  The tap 'stage{i}_pre' of all stages but the last is what the next stage's
  first block expands the stage to, before the ReLU6; see `mobilenet.trunk`.

  Attributes:
    stem_width: The channels of the first convolution.
    stages: See `mobilenet.MobileNetV2`; the channels are not rounded.
    padding: See `mobilenet.Inverted`; the original's is 'block', with the
      weights of torchvision's 'depthwise'.
  """

  stem_width: int = 32
  stages: tuple[tuple[mobilenet.Row, ...], ...] = mobilenet.MobileNetV2.stages
  padding: mobilenet.Padding = 'block'

  def __post_init__(self):
    """Raises UsageError if a field's value is not allowed."""
    layers.check_choice('padding', self.padding, get_args(mobilenet.Padding))
    if self.output_stride not in (8, 16, 32):
      raise errors.ArgumentError(
        f'output_stride={self.output_stride}: give 8, 16 or 32'
      )
    if any(rows[0][0] == 1 for rows in self.stages[1:]):
      raise errors.ArgumentError(
        f'stages={self.stages}: the first row of every stage but the first '
        'needs an expansion above 1, which is tapped'
      )
    super().__post_init__()

  def trunk(self) -> Callable[..., Maps]:
    """Returns the function that makes the backbone; see `Backbone`."""
    return functools.partial(
      mobilenet.trunk,
      stem_width=self.stem_width,
      stages=self.stages,
      output_stride=self.output_stride,
      padding=self.padding,
      norm=self.norm,
      dtype=self.dtype,
    )


WIDTHS = (64, 64, 128, 256, 512)
_small = functools.partial(
  DeepLabResNet,
  stem='strided',
  output_stride=8,
  dilations=(3, 6, 9),
  dropout='none',
)

NETWORKS: Mapping[str, Callable[..., DeepLab]] = {
  'deeplab_resnet18': functools.partial(
    DeepLabResNet, stage_sizes=(2, 2, 2, 2), widths=WIDTHS
  ),
  'deeplab_resnet101': functools.partial(
    DeepLabResNet,
    stage_sizes=(3, 4, 23, 3),
    widths=WIDTHS,
    bottleneck=True,
    grid=(1, 2, 4),
  ),
  'deeplab_mobilenetv2': DeepLabMobileNetV2,
  # For images of 48 pixels: a student and its teacher.
  'deeplab_resnet10_small': functools.partial(
    _small,
    stage_sizes=(1, 1, 1, 1),
    widths=(16, 16, 32, 48, 64),
    aspp_width=24,
    low_width=8,
    decoder_width=24,
  ),
  'deeplab_resnet18_small': functools.partial(
    _small,
    stage_sizes=(2, 2, 2, 2),
    widths=(24, 24, 48, 64, 96),
    aspp_width=32,
    low_width=12,
    decoder_width=32,
  ),
}

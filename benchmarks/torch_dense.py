"""DeepLabV3+ and SSD in PyTorch, for benchmarks/torch_peer.py.

They are written from their formulas, with the layers that kd_jax's have. Names
of DeepLab and of SSD with VGG16 are those of the released codes, so that
`kd_jax.models.pretrained.convert` reads their weights.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch_networks import Block, Taps

_WIDTHS = (64, 64, 128, 256, 512)
_TEACHER, _STUDENT = (24, 24, 48, 64, 96), (16, 16, 32, 48, 64)


class Plan(NamedTuple):
  """A ResNet: blocks and widths, and how its last stages are dilated."""

  blocks: tuple[int, ...]
  widths: tuple[int, ...] = _WIDTHS
  bottleneck: bool = False
  stem: tuple[int, int] = (7, 4)  # side of the kernel, and the whole stride
  output_stride: int = 32
  grid: tuple[int, ...] = (1, 1, 1)


class Head(NamedTuple):
  """The widths of ASPP, of the low map and of the decoder, and dilations."""

  aspp: int = 256
  low: int = 48
  decoder: int = 256
  dilations: tuple[int, ...] = (6, 12, 18)


class Boxes(NamedTuple):
  """The priors of an SSD; see `kd_jax.boxes.Priors`."""

  size: int
  steps: tuple[int, ...]
  least: tuple[float, ...]
  most: tuple[float, ...]
  ratios: tuple[tuple[float, ...], ...]


SSD300 = Boxes(
  300,
  (8, 16, 32, 64, 100, 300),
  (30, 60, 111, 162, 213, 264),
  (60, 111, 162, 213, 264, 315),
  ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
SSD48 = Boxes(48, (4, 8, 16), (12, 18, 26), (18, 26, 34), ((2,),) * 3)
VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
EXTRAS = ((256, 512), (128, 256), (128, 256))
_SMALL: dict[str, Any] = {'stem': (3, 2), 'output_stride': 8}
DEEPLABS = {
  'deeplab_resnet18': (Plan((2, 2, 2, 2), output_stride=16), Head()),
  'deeplab_resnet101': (
    Plan((3, 4, 23, 3), bottleneck=True, output_stride=16, grid=(1, 2, 4)),
    Head(),
  ),
  'deeplab_resnet10_small': (
    Plan((1, 1, 1, 1), _STUDENT, **_SMALL),
    Head(24, 8, 24, (3, 6, 9)),
  ),
  'deeplab_resnet18_small': (
    Plan((2, 2, 2, 2), _TEACHER, **_SMALL),
    Head(32, 12, 32, (3, 6, 9)),
  ),
}
# The ResNet, None for VGG16; the priors, and the widths of the extras.
SSDS: dict[str, tuple[Plan | None, Boxes, tuple[tuple[int, int], ...]]] = {
  'ssd300_vgg16': (None, SSD300, (*EXTRAS, (128, 256))),
  'ssd300_resnet18': (Plan((2, 2, 2, 2)), SSD300, EXTRAS),
  'ssd300_resnet50': (Plan((3, 4, 6, 3), bottleneck=True), SSD300, EXTRAS),
  'ssd48_resnet10': (Plan((1, 1, 1, 1), _STUDENT, stem=(3, 2)), SSD48, ()),
  'ssd48_resnet18': (Plan((2, 2, 2, 2), _TEACHER, stem=(3, 2)), SSD48, ()),
}
NAMES = (*DEEPLABS, *SSDS)


def targets(
  task: str, images: int, classes: int, size: int
) -> dict[str, np.ndarray]:
  """Returns random masks or objects for `images` images; see `Peer`."""
  rng = np.random.default_rng(1)
  if task == 'segmentation':
    return {'label': rng.integers(0, classes, (images, size, size), np.uint8)}
  corner = rng.uniform(0, 0.5, (images, 2, 2))
  far = corner + rng.uniform(0.1, 0.5, corner.shape)
  return {
    'label': rng.integers(0, classes, (images, 2), np.int32),
    'boxes': np.concatenate([corner, far], -1).astype(np.float32),
  }


def flipped(
  batch: dict[str, torch.Tensor], mirrored: torch.Tensor
) -> dict[str, torch.Tensor]:
  """Returns the targets of images, of which some are mirrored, [N,1] bool."""
  if 'boxes' not in batch:
    masks = batch['label']
    turned = torch.where(mirrored[:, :, None], masks.flip(2), masks)
    return {'label': turned.long()}
  boxes = batch['boxes']
  x1, y1, x2, y2 = boxes.unbind(2)
  turned = torch.stack([1 - x2, y1, 1 - x1, y2], 2)
  return batch | {'boxes': torch.where(mirrored[:, :, None], turned, boxes)}


def make(name: str, classes: int, **args: Any) -> nn.Module:
  """Returns a network of `NAMES` with random weights."""
  kind = DeepLab if name in DEEPLABS else SSDVGG if 'vgg' in name else SSDResNet
  network = kind(name, classes, **args)
  for module in network.modules():
    if isinstance(module, nn.Conv2d):
      nn.init.kaiming_normal_(module.weight, mode='fan_out')
  return network


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 convolutions, the last four times as wide."""

  def __init__(self, channels: int, width: int, stride: int, dilation: int):
    super().__init__()
    out = 4 * width
    self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(
      width, width, 3, stride, dilation, dilation, bias=False
    )
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = nn.Conv2d(width, out, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(out)
    self.downsample: nn.Module = nn.Identity()
    if stride != 1 or channels != out:
      self.downsample = nn.Sequential(
        nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to the sum before the last ReLU, [N,4*width,h,w]."""
    y = F.relu(self.bn1(self.conv1(x)))
    y = F.relu(self.bn2(self.conv2(y)))
    return self.bn3(self.conv3(y)) + self.downsample(x)


class Trunk(nn.Module):
  """A ResNet without its classifier.

  Attributes:
    channels: The channels of each tap, by name.
  """

  def __init__(self, plan: Plan):
    super().__init__()
    kernel, total = plan.stem
    channels = plan.widths[0]
    self.conv1 = nn.Conv2d(3, channels, kernel, 2, kernel // 2, bias=False)
    self.bn1 = nn.BatchNorm2d(channels)
    self.pool = nn.MaxPool2d(3, 2, 1) if total == 4 else nn.Identity()
    self.channels = {'stem': channels}
    dilation = 1
    for i, count in enumerate(plan.blocks, 1):
      stride = 2 if i > 1 else 1
      if stride * total > plan.output_stride:
        stride, dilation = 1, 2 * dilation
      total *= stride
      width = plan.widths[i]
      blocks = []
      for j in range(count):
        first = stride if j == 0 else 1
        if plan.bottleneck:
          factor = plan.grid[j] if i == len(plan.blocks) else 1
          block = Bottleneck(channels, width, first, dilation * factor)
          channels = 4 * width
        else:
          block, channels = Block(channels, width, first, dilation), width
        blocks.append(block)
      setattr(self, f'layer{i}', nn.ModuleList(blocks))
      self.channels |= {f'stage{i}': channels, f'stage{i}_pre': channels}
    self.stages = len(plan.blocks)

  def last_bn(self, stage: int) -> nn.BatchNorm2d:
    """Returns the BatchNorm whose output adds to 'stage{stage}_pre'."""
    last = getattr(self, f'layer{stage}')[-1]
    return getattr(last, 'bn3', last.bn2)

  def forward(self, x: torch.Tensor) -> Taps:
    """Returns the taps of images [N,3,H,W], in the order of computation."""
    taps = {'stem': F.relu(self.bn1(self.conv1(x)))}
    x = self.pool(taps['stem'])
    for i in range(1, self.stages + 1):
      for block in getattr(self, f'layer{i}'):
        pre = block(x)
        x = F.relu(pre)
      taps |= {f'stage{i}_pre': pre, f'stage{i}': x}
    return taps


def _resized(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
  if x.shape[2:] == tuple(size):
    return x
  return F.interpolate(x, tuple(size), mode='bilinear', align_corners=True)


class Branch(nn.Module):
  """A convolution of ASPP with its BatchNorm."""

  def __init__(self, channels: int, width: int, kernel: int, dilation: int):
    super().__init__()
    self.atrous_conv = nn.Conv2d(
      channels,
      width,
      kernel,
      padding=dilation * (kernel // 2),
      dilation=dilation,
      bias=False,
    )
    self.bn = nn.BatchNorm2d(width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to [N,width,H,W]."""
    return self.bn(self.atrous_conv(x))


class ASPP(nn.Module):
  """Atrous spatial pyramid pooling, without its last ReLU."""

  def __init__(self, channels: int, head: Head):
    super().__init__()
    width = head.aspp
    self.aspp1 = Branch(channels, width, 1, 1)
    for i, dilation in enumerate(head.dilations, 2):
      self.add_module(f'aspp{i}', Branch(channels, width, 3, dilation))
    self.count = 1 + len(head.dilations)
    self.global_avg_pool = nn.Sequential(
      nn.AdaptiveAvgPool2d(1),
      nn.Conv2d(channels, width, 1, bias=False),
      nn.BatchNorm2d(width),
    )
    self.conv1 = nn.Conv2d((self.count + 1) * width, width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to [N,width,H,W]."""
    branches = [getattr(self, f'aspp{i}')(x) for i in range(1, self.count + 1)]
    branches.append(self.global_avg_pool(x).expand(-1, -1, *x.shape[2:]))
    return self.bn1(self.conv1(F.relu(torch.cat(branches, 1))))


class Decoder(nn.Module):
  """Joins ASPP's map with the backbone's low map, and gives scores."""

  def __init__(self, low: int, head: Head, classes: int, dropout: bool):
    super().__init__()
    self.conv1 = nn.Conv2d(low, head.low, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(head.low)
    half, tenth = (0.5, 0.1) if dropout else (0.0, 0.0)
    width = head.decoder
    self.last_conv = nn.Sequential(
      nn.Conv2d(head.aspp + head.low, width, 3, padding=1, bias=False),
      nn.BatchNorm2d(width),
      nn.ReLU(),
      nn.Dropout(half),
      nn.Conv2d(width, width, 3, padding=1, bias=False),
      nn.BatchNorm2d(width),
      nn.ReLU(),
      nn.Dropout(tenth),
      nn.Conv2d(width, classes, 1),
    )

  def forward(self, x: torch.Tensor, low: torch.Tensor) -> Taps:
    """Returns 'decoder_pre' [N,width,H,W] and 'scores' [N,K,H,W]."""
    low = F.relu(self.bn1(self.conv1(low)))
    x = torch.cat([_resized(x, low.shape[2:]), low], 1)
    pre = self.last_conv[:6](x)
    return {'decoder_pre': pre, 'scores': self.last_conv[6:](pre)}


class DeepLab(nn.Module):
  """DeepLabV3+ with a ResNet; see `kd_jax.models.deeplab`.

  Attributes:
    channels: The channels of each tap before a ReLU, by name.
    batch_norm: See `torch_networks.ResNet`.
  """

  def __init__(
    self,
    name: str,
    classes: int,
    dropout: str = 'all',
    batch_norm: str = 'auto',
  ):
    super().__init__()
    plan, head = DEEPLABS[name]
    self.batch_norm = batch_norm
    # The small networks, which are ours, drop nothing.
    self.dropout = 'none' if name.endswith('_small') else dropout
    self.backbone = Trunk(plan)
    channels = self.backbone.channels
    last = channels[f'stage{len(plan.blocks)}']
    self.aspp = ASPP(last, head)
    self.decoder = Decoder(
      channels['stage1'], head, classes, self.dropout != 'none'
    )
    self.channels = {
      **channels,
      'aspp_pre': head.aspp,
      'decoder_pre': head.decoder,
    }

  def last_bn(self, stage: int | str) -> nn.BatchNorm2d:
    """Returns the BatchNorm before a stage's last ReLU."""
    if stage == 'aspp':
      return self.aspp.bn1
    if stage == 'decoder':
      return self.decoder.last_conv[5]
    return self.backbone.last_bn(stage)

  def forward(self, images: torch.Tensor) -> Taps:
    """Returns all taps of images [N,3,H,W]; 'logits' is [N,K,H,W]."""
    taps = self.backbone(images)
    *_, x = taps.values()
    taps['aspp_pre'] = self.aspp(x)
    x = F.relu(taps['aspp_pre'])
    if self.dropout == 'all':
      x = F.dropout(x, 0.5, self.training)
    taps |= self.decoder(x, taps['stage1'])
    taps['logits'] = _resized(taps['scores'], images.shape[2:])
    return taps


class SSD(nn.Module):
  """The heads of an SSD, and its priors; see `kd_jax.models.ssd`."""

  def __init__(self, name: str, classes: int, batch_norm: str = 'auto'):
    super().__init__()
    self.plan, self.grid, self.widths = SSDS[name]
    self.batch_norm, self.values = batch_norm, classes + 1
    self.register_buffer('priors', torch.from_numpy(priors(self.grid)))

  def add_heads(self, sources: Sequence[int]) -> None:
    """Adds the extras and the heads, for the channels of the first sources."""
    sources = list(sources)
    self.extras = nn.ModuleList()
    sides = [-(-self.grid.size // step) for step in self.grid.steps]
    for widths in self.widths:
      shrinks = sides[len(sources)] == sides[len(sources) - 1] - 2
      bias = self.plan is None
      self.extras.append(nn.Conv2d(sources[-1], widths[0], 1, bias=bias))
      self.extras.append(
        nn.Conv2d(
          widths[0],
          widths[1],
          3,
          1 if shrinks else 2,
          0 if shrinks else 1,
          bias=bias,
        )
      )
      sources.append(widths[1])
    if self.plan is not None:
      widths = itertools.chain.from_iterable(self.widths)
      self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
    self.loc, self.conf = nn.ModuleList(), nn.ModuleList()
    for channels, ratios in zip(sources, self.grid.ratios, strict=True):
      anchors = 2 + 2 * len(ratios)
      self.loc.append(nn.Conv2d(channels, 4 * anchors, 3, padding=1))
      out = anchors * self.values
      self.conf.append(nn.Conv2d(channels, out, 3, padding=1))

  def heads(self, sources: Sequence[torch.Tensor]) -> Taps:
    """Returns 'offsets' [N,P,4], 'logits' [N,P,K+1] and 'priors' [P,4]."""
    maps, x = list(sources), sources[-1]
    for i, conv in enumerate(self.extras):
      x = conv(x)
      x = F.relu(x if self.plan is None else self.norms[i](x))
      if i % 2:
        maps.append(x)

    def joined(heads: nn.ModuleList, values: int) -> torch.Tensor:
      return torch.cat(
        [
          head(x).permute(0, 2, 3, 1).reshape(len(x), -1, values)
          for head, x in zip(heads, maps, strict=True)
        ],
        1,
      )

    offsets, logits = joined(self.loc, 4), joined(self.conf, self.values)
    return {'offsets': offsets, 'logits': logits, 'priors': self.priors}


class SSDResNet(SSD):
  """An SSD whose first sources are a ResNet's stages from the second on."""

  def __init__(self, name: str, classes: int, batch_norm: str = 'auto'):
    super().__init__(name, classes, batch_norm)
    self.backbone = Trunk(self.plan)
    self.channels, self.last_bn = self.backbone.channels, self.backbone.last_bn
    self.names = [f'stage{i}' for i in range(2, len(self.plan.blocks) + 1)]
    self.add_heads([self.channels[tap] for tap in self.names])

  def forward(self, images: torch.Tensor) -> Taps:
    """Returns all taps of images [N,3,H,W]."""
    taps = self.backbone(images)
    return taps | self.heads([taps[name] for name in self.names])


class L2Norm(nn.Module):
  """Scales every position's channels to a learnt length."""

  def __init__(self, channels: int):
    super().__init__()
    self.weight = nn.Parameter(torch.full((channels,), 20.0))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to the same shape."""
    length = x.square().sum(1, keepdim=True).sqrt() + 1e-10
    return self.weight[None, :, None, None] * (x / length)


class SSDVGG(SSD):
  """An SSD with VGG16, without BatchNorm."""

  def __init__(self, name: str, classes: int):
    super().__init__(name, classes)
    layers: list[nn.Module] = []
    channels = 3
    for widths in VGG16:
      for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width
      layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    layers[-1] = nn.MaxPool2d(3, 1, 1)
    layers += [nn.Conv2d(channels, 1024, 3, padding=6, dilation=6), nn.ReLU()]
    layers += [nn.Conv2d(1024, 1024, 1), nn.ReLU()]
    self.vgg = nn.ModuleList(layers)
    self.first = sum(2 * len(widths) + 1 for widths in VGG16[:4]) - 1
    self.L2Norm = L2Norm(VGG16[3][-1])
    self.add_heads([VGG16[3][-1], 1024])

  def forward(self, images: torch.Tensor) -> Taps:
    """Returns the heads' outputs for images [N,3,300,300]."""
    x = images
    for i, layer in enumerate(self.vgg):
      if i == self.first:  # the pool behind conv4_3
        source = self.L2Norm(x)
      x = layer(x)
    return self.heads([source, x])


def priors(grid: Boxes) -> np.ndarray:
  """Returns the priors in centre form, clipped to 0..1, [P,4] f32."""
  rows = []
  for step, least, most, ratios in zip(*grid[1:], strict=True):
    shapes = [(least, least), ((least * most) ** 0.5,) * 2]
    for ratio in ratios:
      root = ratio**0.5
      shapes += [(least * root, least / root), (least / root, least * root)]
    side = -(-grid.size // step)
    for y, x in itertools.product(range(side), repeat=2):
      rows += [((x + 0.5) * step, (y + 0.5) * step, *shape) for shape in shapes]
  return (np.array(rows) / grid.size).clip(0, 1).astype(np.float32)


def pixels(taps: Taps, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
  """Returns the mean cross-entropy of the logits of pixels [N,K,H,W]."""
  return F.cross_entropy(
    taps['logits'].float(), batch['label'], ignore_index=255
  )


def multibox(taps: Taps, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
  """Returns the loss of boxes and classes, by the positive priors."""
  matched = [
    _matched(boxes, labels, taps['priors'])
    for boxes, labels in zip(batch['boxes'], batch['label'], strict=True)
  ]
  classes, wanted = (torch.stack(x) for x in zip(*matched, strict=True))
  positive = classes > 0
  boxes = F.smooth_l1_loss(
    taps['offsets'][positive], wanted[positive], reduction='sum'
  )
  entropies = F.cross_entropy(
    taps['logits'].transpose(1, 2), classes, reduction='none'
  )
  hardness = entropies.detach().masked_fill(positive, -torch.inf)
  order = hardness.argsort(dim=1, descending=True, stable=True)
  ranks = order.argsort(1)
  count = (3 * positive.sum(1, keepdim=True)).clamp(max=classes.shape[1] - 1)
  counted = positive | (ranks < count)
  return (boxes + entropies[counted].sum()) / positive.sum().clamp(min=1)


def _matched(
  boxes: torch.Tensor, labels: torch.Tensor, priors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns the classes [P] and the offsets [P,4] that priors predict."""
  centre, size = priors[:, :2], priors[:, 2:]
  first, last = centre - size / 2, centre + size / 2
  low = torch.maximum(boxes[:, None, :2], first[None])
  high = torch.minimum(boxes[:, None, 2:], last[None])
  both = (high - low).clamp(min=0).prod(2)
  areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] + (last - first).prod(
    1
  )[None]
  overlaps = both / (areas - both)
  best, taken = overlaps.max(0)
  for number, prior in enumerate(overlaps.argmax(1)):
    best[prior], taken[prior] = 2, number
  matched = boxes[taken]
  classes = torch.where(best < 0.5, 0, labels[taken] + 1)
  moved = ((matched[:, :2] + matched[:, 2:]) / 2 - centre) / (0.1 * size)
  grown = torch.log((matched[:, 2:] - matched[:, :2]) / size) / 0.2
  return classes.long(), torch.cat([moved, grown], 1)


SUPERVISED: dict[
  str, Callable[[Taps, Mapping[str, torch.Tensor]], torch.Tensor]
] = {'segmentation': pixels, 'detection': multibox}

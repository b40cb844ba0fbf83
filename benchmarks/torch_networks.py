"""ResNets in PyTorch that return their taps, for benchmarks/torch_peer.py.

Their layers have the names of torchvision's and RepDistiller's, so that
`kd_jax.models.pretrained.convert` reads their weights.
"""

from collections.abc import Sequence

import torch
from torch import nn
import torch.nn.functional as F

_CIFAR = {8: 1, 14: 2, 20: 3, 32: 5, 38: 6, 44: 7, 56: 9, 110: 18}
_WIDE = {'14x2': 2, '38x2': 6, '8x4': 1, '32x4': 5, '38x4': 6}
_ONCE, _TWICE, _FOUR_TIMES = (
  (16, 16, 32, 64),
  (16, 32, 64, 128),
  (32, 64, 128, 256),
)
# Blocks per stage, and the widths of the stem and the stages, by name.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
  **{f'resnet{d}': ((n,) * 3, _ONCE) for d, n in _CIFAR.items()},
  **{
    f'resnet{d}': ((n,) * 3, _TWICE if d.endswith('x2') else _FOUR_TIMES)
    for d, n in _WIDE.items()
  },
  'resnet18': ((2, 2, 2, 2), (64, 64, 128, 256, 512)),
  'resnet34': ((3, 4, 6, 3), (64, 64, 128, 256, 512)),
}

# The taps of a network by name: 'stem', 'stage1'.. and 'stage1_pre'.. (before
# the stage's last ReLU) [N,C,H,W], 'pooled' [N,C], 'logits' [N,K].
Taps = dict[str, torch.Tensor]


class Block(nn.Module):
  """Two 3x3 convolutions, with a 1x1 shortcut if stride or width changes."""

  def __init__(self, channels: int, width: int, stride: int, dilation: int = 1):
    super().__init__()
    reach = {'padding': dilation, 'dilation': dilation, 'bias': False}
    self.conv1 = nn.Conv2d(channels, width, 3, stride, **reach)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, **reach)
    self.bn2 = nn.BatchNorm2d(width)
    self.downsample: nn.Module = nn.Identity()
    if stride != 1 or channels != width:
      self.downsample = nn.Sequential(
        nn.Conv2d(channels, width, 1, stride, bias=False),
        nn.BatchNorm2d(width),
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to the sum before the last ReLU, [N,width,h,w]."""
    y = F.relu(self.bn1(self.conv1(x)))
    return self.bn2(self.conv2(y)) + self.downsample(x)


class ResNet(nn.Module):
  """A ResNet of He et al., CVPR 2016: for CIFAR with three stages, else four.

  Attributes:
    channels: The channels of each tap except 'logits', by name.
    stages: The number of stages.
  """

  def __init__(
    self,
    name: str,
    classes: int,
    widths: Sequence[int] = (),
    stem: str = '',
    batch_norm: str = 'auto',
  ):
    """Initialises the network with random weights.

    Args:
      name: A key of `SHAPES`.
      classes: The number of classes, K.
      widths: The widths of the stem and the stages; () means those of the name.
      stem: 'cifar' or 'imagenet'; '' means that of the name.
      batch_norm: 'auto', or 'batch' for a teacher that uses batch statistics;
        see `frozen`.
    """
    super().__init__()
    block_counts, default_widths = SHAPES[name]
    widths = tuple(widths) or default_widths
    large_stem = (
      stem or ('imagenet' if len(block_counts) == 4 else 'cifar')
    ) != 'cifar'
    kernel, stride = (7, 2) if large_stem else (3, 1)
    channels = widths[0]
    self.batch_norm = batch_norm
    self.conv1 = nn.Conv2d(3, channels, kernel, stride, kernel // 2, bias=False)
    self.bn1 = nn.BatchNorm2d(channels)
    self.pool = nn.MaxPool2d(3, 2, 1) if large_stem else nn.Identity()
    self.channels = {'stem': channels}
    self.stages = len(block_counts)
    for i, (count, width) in enumerate(
      zip(block_counts, widths[1:], strict=True), 1
    ):
      blocks = []
      for j in range(count):
        stride = 2 if i > 1 and not j else 1
        blocks.append(Block(channels, width, stride))
        channels = width
      setattr(self, f'layer{i}', nn.ModuleList(blocks))
      self.channels |= {f'stage{i}': width, f'stage{i}_pre': width}
    self.channels['pooled'] = channels
    self.fc = nn.Linear(channels, classes)
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out')

  def last_bn(self, stage: int) -> nn.BatchNorm2d:
    """Returns the BatchNorm whose output adds to 'stage{stage}_pre'."""
    return getattr(self, f'layer{stage}')[-1].bn2

  def forward(self, x: torch.Tensor) -> Taps:
    """Returns all taps of images [N,3,H,W]."""
    taps = {'stem': F.relu(self.bn1(self.conv1(x)))}
    x = self.pool(taps['stem'])
    for i in range(1, self.stages + 1):
      for block in getattr(self, f'layer{i}'):
        pre = block(x)
        x = F.relu(pre)
      taps |= {f'stage{i}_pre': pre, f'stage{i}': x}
    taps['pooled'] = x.mean((2, 3))
    taps['logits'] = self.fc(taps['pooled'])
    return taps


def frozen(network: ResNet) -> ResNet:
  """Makes the network a teacher: no gradients and no updates of its statistics.

  Its BatchNorms use running statistics, or those of the batch if its
  `batch_norm` is 'batch'.
  """
  network.eval().requires_grad_(False)
  if network.batch_norm == 'batch':
    for module in network.modules():
      if isinstance(module, nn.BatchNorm2d):
        module.train()
        module.track_running_stats = False
  return network

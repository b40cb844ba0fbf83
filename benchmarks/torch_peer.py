"""KD in plain PyTorch: what `python -m kd_jax.benchmark --compare` runs beside.

A process of its own, never imported by kd_jax. It trains the same networks on
the same number of random images, with the same batch, loss and optimizer, as
the field's repositories do (`dataloader`), and as well as PyTorch can:

  dataloader   DataLoader workers, PIL crop and flip, the loss read every step:
               RepDistiller's loop
  eager        images on the device as uint8, crop and flip there, in one gather
  compiled     as eager; augmentation, both networks and the loss under
               torch.compile(mode='max-autotune'), channels-last, fused SGD
  bfloat16     as compiled, under autocast to bfloat16

It is started with its arguments as JSON. It says what it is on one line of
JSON; then, for each line with a number of steps, how long they took:

  {"ms": milliseconds a step}
"""

from collections.abc import Iterator
import itertools
import json
import os
import random
import sys
import time
from typing import Any

import numpy as np
from PIL import Image, ImageOps
import torch
from torch import nn
import torch.nn.functional as F

_CIFAR = {8: 1, 14: 2, 20: 3, 32: 5, 44: 7, 56: 9, 110: 18}
# Blocks a stage, and the widths of the stem and the stages.
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
  **{f'resnet{d}': ((n,) * 3, (16, 16, 32, 64)) for d, n in _CIFAR.items()},
  'resnet8x4': ((1,) * 3, (32, 64, 128, 256)),
  'resnet32x4': ((5,) * 3, (32, 64, 128, 256)),
  'resnet18': ((2, 2, 2, 2), (64, 64, 128, 256, 512)),
  'resnet34': ((3, 4, 6, 3), (64, 64, 128, 256, 512)),
}
_WARM_UP = 3  # steps


class Block(nn.Module):
  """Two 3x3 convolutions; a 1x1 shortcut where stride or width changes."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.shortcut: nn.Module = nn.Identity()
    if stride != 1 or channels != width:
      self.shortcut = nn.Sequential(
        nn.Conv2d(channels, width, 1, stride, bias=False),
        nn.BatchNorm2d(width),
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to [N,width,H/stride,W/stride]."""
    y = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
  """He et al., CVPR 2016: for CIFAR with three stages, else four."""

  def __init__(self, name: str, classes: int):
    super().__init__()
    sizes, widths = SHAPES[name]
    large = len(sizes) == 4
    kernel, stride = (7, 2) if large else (3, 1)
    self.stem = nn.Sequential(
      nn.Conv2d(3, widths[0], kernel, stride, kernel // 2, bias=False),
      nn.BatchNorm2d(widths[0]),
      nn.ReLU(),
      nn.MaxPool2d(3, 2, 1) if large else nn.Identity(),
    )
    blocks, channels = [], widths[0]
    for i, (count, width) in enumerate(zip(sizes, widths[1:], strict=True)):
      for j in range(count):
        stride = 2 if i and not j else 1
        blocks.append(Block(channels, width, stride))
        channels = width
    self.blocks = nn.Sequential(*blocks)
    self.fc = nn.Linear(channels, classes)
    for module in self.modules():
      if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode='fan_out')

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Logits [N,K] of [N,3,H,W]."""
    return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Pictures(torch.utils.data.Dataset):
  """Images [M,H,W,3] u8, cropped, flipped and normalised by PIL and PyTorch."""

  def __init__(self, images: np.ndarray, labels: np.ndarray, given: Any):
    self.images, self.labels = images, labels
    self.padding, self.flip = given['padding'], given['flip']
    self.mean = torch.tensor(given['mean']).view(3, 1, 1)
    self.std = torch.tensor(given['std']).view(3, 1, 1)

  def __len__(self) -> int:
    """How many."""
    return len(self.labels)

  def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
    """One, [3,H,W], and its label."""
    image = Image.fromarray(self.images[index])
    if self.padding:
      width, height = image.size
      wide = ImageOps.expand(image, self.padding, 0)
      x = random.randint(0, 2 * self.padding)
      y = random.randint(0, 2 * self.padding)
      image = wide.crop((x, y, x + width, y + height))
    if self.flip and random.random() < 0.5:
      image = ImageOps.mirror(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    scaled = pixels.contiguous().float().div_(255)
    return scaled.sub_(self.mean).div_(self.std), int(self.labels[index])


class Peer:
  """One variant, ready to train."""

  def __init__(self, given: dict[str, Any]):
    self.given, self.variant = given, given['variant']
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    self.compiled = self.variant in ('compiled', 'bfloat16')
    layout = torch.channels_last if self.compiled else torch.contiguous_format
    networks = [
      ResNet(given[name], given['classes']).to(
        self.device, memory_format=layout
      )
      for name in ('student', 'teacher')
    ]
    self.student, self.teacher = networks[0].train(), networks[1].eval()
    self.teacher.requires_grad_(False)
    self.optimizer = torch.optim.SGD(
      self.student.parameters(),
      lr=given['learning_rate'],
      momentum=given['momentum'],
      weight_decay=given['weight_decay'],
      nesterov=given['nesterov'],
      fused=True if self.compiled else None,
    )
    self.mean = torch.tensor(given['mean'], device=self.device)
    self.std = torch.tensor(given['std'], device=self.device)
    self.objective = self._from_indices
    if self.compiled:
      torch.set_float32_matmul_precision('high')
      self.objective = torch.compile(self._from_indices, mode='max-autotune')
    rng = np.random.default_rng(0)
    size = given['image_size']
    images = rng.integers(0, 256, (given['images'], size, size, 3), np.uint8)
    labels = np.arange(given['images']) % given['classes']
    if self.variant == 'dataloader':
      self.batches = self._loaded(images, labels)
    else:
      self.batches = self._indices(len(labels))
      edge = (given['padding'],) * 2  # black, once for all
      wide = np.pad(images, ((0, 0), edge, edge, (0, 0)))
      self.images = torch.from_numpy(wide).to(self.device)
      self.labels = torch.from_numpy(labels).to(self.device)

  def _loaded(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
    """Batches that worker processes make."""
    loader = torch.utils.data.DataLoader(
      Pictures(images, labels, self.given),
      batch_size=self.given['batch_size'],
      shuffle=True,
      drop_last=True,
      num_workers=self.given['workers'],
      pin_memory=self.device == 'cuda',
      persistent_workers=True,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))

  def _indices(self, count: int) -> Iterator[Any]:
    """Indices on the device, of a new permutation each epoch."""
    size = self.given['batch_size']
    while True:
      order = torch.randperm(count, device=self.device)
      for start in range(0, count - size + 1, size):
        yield order[start : start + size]

  def _augmented(self, index: torch.Tensor) -> torch.Tensor:
    """Crops, flips and normalises in one gather: [N,3,H,W] f32."""
    size, most = self.given['image_size'], 2 * self.given['padding']
    count, device = len(index), self.device
    inside = torch.arange(size, device=device)[None, :]
    y = torch.randint(0, most + 1, (count, 1), device=device) + inside
    x = torch.randint(0, most + 1, (count, 1), device=device) + inside
    if self.given['flip']:
      flipped = torch.rand((count, 1), device=device) < 0.5
      x = torch.where(flipped, x.flip(1), x)
    pixels = self.images[index[:, None, None], y[:, :, None], x[:, None, :]]
    images = (pixels.float() / 255 - self.mean) / self.std
    images = images.permute(0, 3, 1, 2)
    return images if self.compiled else images.contiguous()

  def _from_indices(self, index: torch.Tensor) -> torch.Tensor:
    return self._loss(self._augmented(index), self.labels[index])

  def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The weighted sum of cross-entropy and KL times T^2."""
    half = self.variant == 'bfloat16'
    with torch.autocast(self.device, torch.bfloat16, enabled=half):
      with torch.no_grad():
        target = self.teacher(images)
      logits = self.student(images)
    logits, target = logits.float(), target.float()
    heat = self.given['temperature']
    kl = F.kl_div(
      F.log_softmax(logits / heat, 1),
      F.softmax(target / heat, 1),
      reduction='batchmean',
    )
    ce = F.cross_entropy(logits, labels)
    return self.given['ce'] * ce + self.given['kd'] * heat**2 * kl

  def step(self) -> None:
    """One update."""
    batch = next(self.batches)
    if self.variant == 'dataloader':
      images, labels = (x.to(self.device, non_blocking=True) for x in batch)
      loss = self._loss(images, labels)
    else:
      if self.compiled and self.device == 'cuda':
        torch.compiler.cudagraph_mark_step_begin()
      loss = self.objective(batch)
    self.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self.optimizer.step()
    if self.variant == 'dataloader':
      loss.item()  # as the peers' meters do

  def turn(self, steps: int) -> float:
    """Milliseconds a step."""
    began = time.perf_counter()
    for _ in range(steps):
      self.step()
    if self.device == 'cuda':
      torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / steps

  def about(self, compile_s: float) -> dict[str, Any]:
    """What the reader of its figures must know."""
    name, memory = f'{torch.get_num_threads()} CPU threads', None
    if self.device == 'cuda':
      name = torch.cuda.get_device_name()
      memory = torch.cuda.max_memory_allocated()
    return {
      'compile_s': compile_s,
      'dtype': 'bfloat16' if self.variant == 'bfloat16' else 'float32',
      'hardware': name,
      'memory_bytes': memory,
      'params': sum(p.numel() for p in self.student.parameters()),
      'torch': torch.__version__,
    }


def native_bfloat16() -> bool:
  """Whether the device multiplies bfloat16 itself."""
  if torch.cuda.is_available():
    return torch.cuda.get_device_capability() >= (8, 0)
  known = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
  return known is not None and known()


def main() -> None:
  """Answers until its input ends."""
  given = json.loads(sys.argv[1])
  # The answers have the first standard output to themselves.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)

  if given['variant'] == 'bfloat16' and not native_bfloat16():
    answer({'left_out': 'this device has no bfloat16 of its own'})
    return
  for name in ('student', 'teacher'):
    if given[name] not in SHAPES:
      answer({'left_out': f'it has no network {given[name]!r}'})
      return
  peer = Peer(given)
  first = peer.turn(1)
  peer.turn(_WARM_UP)
  answer(peer.about(first / 1e3))
  for line in sys.stdin:
    answer({'ms': peer.turn(int(line))})


if __name__ == '__main__':
  main()

"""The methods that benchmarks/torch_peer.py trains, as PyTorch modules.

A method owns its adapters, and computes the weighted sum of its terms from the
taps of all networks and a batch. The modules have the names of those in
`kd_jax.methods`, so that parameters correspond by name. A term of weight 0 is
not computed. Losses are float32, also under autocast.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch_networks import ResNet, Taps

# 'label' [N] i64. For CRD also 'index' [N] i64, the position of each image in
# the split, and optionally 'contrast_index' [N,K+1] i64, that position and the
# positions of the K negatives.
Batch = Mapping[str, torch.Tensor]


def kl(
  student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
  """Returns T^2 * KL(teacher || student) of softened logits, a batch mean."""
  teacher_log_probs = F.log_softmax(teacher.detach().float() / temperature, 1)
  student_log_probs = F.log_softmax(student.float() / temperature, 1)
  return temperature**2 * F.kl_div(
    student_log_probs, teacher_log_probs, reduction='batchmean', log_target=True
  )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
  """Returns the mean cross-entropy of logits [N,K]."""
  return F.cross_entropy(logits.float(), labels)


def labelled(taps: Taps, batch: Batch) -> torch.Tensor:
  """Returns the cross-entropy of a network's logits [N,K]."""
  return cross_entropy(taps['logits'], batch['label'])


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
  """Returns the mean squared difference over all elements."""
  return F.mse_loss(a.float(), b.float())


def aligned(
  a: torch.Tensor, b: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns two maps at the same size; the larger is average-pooled."""
  if a.shape[2:] == b.shape[2:]:
    return a, b
  size = [min(sides) for sides in zip(a.shape[2:], b.shape[2:], strict=True)]
  return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


def attention(x: torch.Tensor) -> torch.Tensor:
  """Returns the mean of squares over the channels of a map, [N,H*W] f32."""
  return x.float().square().mean(1).flatten(1)


def attention_transfer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
  """Returns the MSE of two maps' attention, each scaled to unit length."""
  return F.mse_loss(F.normalize(attention(a)), F.normalize(attention(b)))


class Method(nn.Module):
  """The base of the methods; `forward` returns the weighted loss [] f32.

  Attributes:
    weights: The weight of each term, by its name.
    supervised: The loss of a network's taps against the targets of a batch.
    temperature: The temperature of the logits.
  """

  def __init__(self, weights: Mapping[str, float], temperature: float = 1.0):
    super().__init__()
    self.weights, self.temperature = dict(weights), temperature
    self.supervised = labelled

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted sum of all terms.

    Args:
      feats: The taps of each network, by the network's name.
      batch: See `Batch`.
    """
    raise NotImplementedError

  def after(self) -> None:
    """Updates the method's state after the backward pass."""

  def total(self, **terms: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Returns the weighted sum; a term of weight 0 is not called."""
    weighted = [
      weight * terms[name]() for name, weight in self.weights.items() if weight
    ]
    return functools.reduce(torch.add, weighted)

  def standard(
    self,
    student: torch.Tensor,
    teacher: torch.Tensor,
    batch: Batch,
    **own: Callable[[], torch.Tensor],
  ) -> torch.Tensor:
    """Returns the weighted sum of 'ce', 'kd' and the method's own terms."""
    return self.total(
      ce=lambda: cross_entropy(student, batch['label']),
      kd=lambda: kl(student, teacher, self.temperature),
      **own,
    )


class CE(Method):
  """The supervised loss of the student alone."""

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    return self.total(ce=lambda: self.supervised(feats['student'], batch))


class KD(Method):
  """Cross-entropy and the KL divergence of softened logits."""

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    student, teacher = feats['student'], feats['teacher']
    return self.standard(student['logits'], teacher['logits'], batch)


class FPD(Method):
  """Compares both networks' maps after one pyramid (the method's version A)."""

  def __init__(
    self,
    networks: Mapping[str, ResNet],
    taps: Sequence[str],
    width: int,
    se_reduction: int,
    **common: Any,
  ):
    super().__init__(**common)
    self.taps = tuple(taps)
    channels = {
      name: [network.channels[tap] for tap in self.taps]
      for name, network in networks.items()
    }

    def laterals(inputs: Sequence[int]) -> nn.ModuleDict:
      convolutions = [nn.Conv2d(c, width, 1) for c in inputs]
      return nn.ModuleDict(
        {f'lateral{k}': conv for k, conv in enumerate(convolutions)}
      )

    self.laterals = laterals(channels['student'])
    if channels['teacher'] != channels['student']:
      self.teacher_laterals = laterals(channels['teacher'])
    self.smooth = nn.Conv2d(width, width, 3, padding=1)
    gate_width = width // se_reduction
    self.gate = nn.ModuleDict(
      {
        'fc1': nn.Linear(width, gate_width, bias=False),
        'fc2': nn.Linear(gate_width, width, bias=False),
      }
    )

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    student, teacher = feats['student'], feats['teacher']

    def pyramids() -> torch.Tensor:
      pairs = [aligned(student[tap], teacher[tap]) for tap in self.taps]
      student_pyramid = self._pyramid(self.laterals, [s for s, _ in pairs])
      teacher_laterals = getattr(self, 'teacher_laterals', self.laterals)
      teacher_pyramid = self._pyramid(teacher_laterals, [t for _, t in pairs])
      parts = [
        _softmax_weighted([mse(s, t) for s, t in zip(a, b, strict=True)])
        for a, b in zip(student_pyramid, teacher_pyramid, strict=True)
      ]
      return _softmax_weighted(parts)

    return self.standard(
      student['logits'], teacher['logits'], batch, fpd=pyramids
    )

  def _pyramid(
    self, laterals: Any, maps: Sequence[torch.Tensor]
  ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Returns the smoothed and the gated levels, the smallest first."""
    smooth: list[torch.Tensor] = []
    gated: list[torch.Tensor] = []
    level = None
    for k in reversed(range(len(maps))):
      lateral = laterals[f'lateral{k}'](maps[k])
      if level is not None:
        size = lateral.shape[2:]
        if level.shape[2:] != size:
          level = F.interpolate(level, size, mode='bilinear')
        lateral = lateral + level
      level = lateral
      smooth.append(self.smooth(level))
      squeezed = F.relu(self.gate['fc1'](smooth[-1].mean((2, 3))))
      gate = torch.sigmoid(self.gate['fc2'](squeezed))
      gated.append(smooth[-1] * gate[:, :, None, None])
    return smooth, gated


def _softmax_weighted(values: Sequence[torch.Tensor]) -> torch.Tensor:
  """Returns the sum of scalars, weighted by their detached softmax."""
  stacked = torch.stack(list(values))
  return (stacked.detach().softmax(0) * stacked).sum()


class OFD(Method):
  """Compares maps before the ReLU by a partial L2 distance.

  The teacher's maps pass a margin ReLU first.
  """

  def __init__(
    self,
    networks: Mapping[str, Any],
    stages: Sequence[int | str],
    divisors: Sequence[float] = (),
    **common: Any,
  ):
    super().__init__(**common)
    self.stages = tuple(stages)
    halving = [2.0**i for i in reversed(range(len(self.stages)))]
    self.divisors = list(divisors) or halving
    student, teacher = networks['student'], networks['teacher']
    for i in self.stages:
      tap = _before(i)
      channels, width = student.channels[tap], teacher.channels[tap]
      connector = {
        'conv': nn.Conv2d(channels, width, 1, bias=False),
        'bn': nn.BatchNorm2d(width),
      }
      nn.init.kaiming_normal_(connector['conv'].weight, mode='fan_out')
      self.add_module(f'connector{i}', nn.ModuleDict(connector))
      # The teacher is frozen, so its margins are constants.
      self.register_buffer(f'margin{i}', _margin(teacher.last_bn(i)))

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    student, teacher = feats['student'], feats['teacher']

    def distances() -> torch.Tensor:
      weighted = []
      for i, divisor in zip(self.stages, self.divisors, strict=True):
        tap, connector = _before(i), getattr(self, f'connector{i}')
        s, t = aligned(student[tap], teacher[tap])
        s = connector['bn'](connector['conv'](s))
        distance = _partial_l2(s, t, getattr(self, f'margin{i}'))
        weighted.append(distance / divisor)
      return functools.reduce(torch.add, weighted)

    return self.total(
      ce=lambda: self.supervised(student, batch),
      kd=lambda: kl(student['logits'], teacher['logits'], self.temperature),
      ofd=distances,
    )


def _before(stage: int | str) -> str:
  """Returns the tap before a stage's last ReLU."""
  return f'{stage}_pre' if isinstance(stage, str) else f'stage{stage}_pre'


def _margin(bn: nn.BatchNorm2d) -> torch.Tensor:
  """Returns the mean of the negative part of N(beta, gamma^2), [1,C,1,1]."""
  gamma, beta = bn.weight.detach().abs(), bn.bias.detach()
  is_zero = gamma == 0
  safe = torch.where(is_zero, 1.0, gamma)
  ratio = beta / safe
  negative = torch.special.ndtr(-ratio)
  density = torch.exp(-ratio.square() / 2) / (2 * np.pi) ** 0.5
  is_reliable = negative > 0.001
  mean = beta - safe * density / torch.where(is_reliable, negative, 1.0)
  margin = torch.where(is_reliable, mean, -3 * gamma)
  margin = torch.where(is_zero, beta.clamp(max=0), margin)
  return margin[None, :, None, None]


def _partial_l2(
  s: torch.Tensor, t: torch.Tensor, margin: torch.Tensor
) -> torch.Tensor:
  """Returns the squared distance of s to the margin ReLU of t, a batch mean.

  Elements where both are negative and s is the lower do not count.
  """
  s, target = s.float(), torch.maximum(t.float(), margin)
  counts = (s > target) | (target > 0)
  return ((s - target).square() * counts).sum() / len(s)


class Separable(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution, each with BatchNorm and ReLU."""

  def __init__(self, channels: int, width: int):
    super().__init__()
    self.conv1 = nn.Conv2d(
      channels, channels, 3, padding=1, groups=channels, bias=False
    )
    self.bn1 = nn.BatchNorm2d(channels)
    self.conv2 = nn.Conv2d(channels, width, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    for conv in (self.conv1, self.conv2):
      fan_out = conv.kernel_size[0] ** 2 * conv.out_channels
      nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to [N,width,H,W]."""
    x = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(x)))


class Decoder(nn.Module):
  """Doubles a map's sides in each of its blocks."""

  def __init__(self, channels: int, widths: Sequence[int]):
    super().__init__()
    self.blocks = len(widths)
    for i, width in enumerate(widths):
      conv = nn.ConvTranspose2d(
        channels, width, 3, 2, 1, output_padding=1, bias=False
      )
      self.add_module(f'conv{i}', conv)
      self.add_module(f'bn{i}', nn.BatchNorm2d(width))
      channels = width

  def forward(self, x: torch.Tensor, train: bool) -> list[torch.Tensor]:
    """Returns one map per block; running statistics unless `train`."""
    maps = []
    for i in range(self.blocks):
      bn = getattr(self, f'bn{i}')
      x = F.batch_norm(
        getattr(self, f'conv{i}')(x),
        bn.running_mean,
        bn.running_var,
        bn.weight,
        bn.bias,
        training=train,
        momentum=bn.momentum,
        eps=bn.eps,
      )
      x = F.relu(x)
      maps.append(x)
    return maps


class FFSD(Method):
  """Common students and a leader, which learn together without a teacher."""

  def __init__(
    self,
    networks: Mapping[str, ResNet],
    taps: Sequence[str],
    common_students: int,
    classes: int,
    **common: Any,
  ):
    super().__init__(**common)
    self.taps = tuple(taps)
    self.common = [f'student_{i}' for i in range(common_students)]
    widths = [networks['leader'].channels[tap] for tap in self.taps]
    joined_width = widths[-1] * common_students
    self.fusion = nn.ModuleDict(
      {
        'fuse': Separable(joined_width, widths[-1]),
        'fc': nn.Linear(widths[-1], classes),
      }
    )
    self.leader_trans = Separable(widths[-1], joined_width)
    self.decoders = ['leader', *self.common[1:]]
    for name in self.decoders:
      decoder = Decoder(widths[-1], widths[-2::-1])
      self.add_module(f'decoder_{name}', decoder)

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    label, temperature, leader = (
      batch['label'],
      self.temperature,
      feats['leader'],
    )
    maps = {n: [f[tap] for tap in self.taps] for n, f in feats.items()}
    logits = [feats[name]['logits'] for name in self.common]
    joined = torch.cat([maps[n][-1] for n in self.common], 1).detach()
    fused = self.fusion['fuse'](joined)
    fused_logits = self.fusion['fc'](fused.mean((2, 3)))
    mean = torch.stack([z.float() for z in logits]).mean(0)
    previous = dict(zip(self.common[1:], self.common, strict=False))
    shifted_maps = {
      n: _shifted(maps[b][-1].detach()) for n, b in previous.items()
    }
    # Targets use running statistics, before the decoder term updates these.
    with torch.no_grad():
      targets = {
        n: self._decoder(n)(s[1], False) for n, s in shifted_maps.items()
      }
      targets['leader'] = self._decoder('leader')(fused.detach(), False)
    return self.total(
      ce=lambda: _sum(
        cross_entropy(z, label) for z in (*logits, leader['logits'])
      ),
      mutual=lambda: (
        _sum(
          kl(a, b, temperature) for a in logits for b in logits if a is not b
        )
        / (len(logits) - 1)
      ),
      diversity=lambda: _sum(
        F.mse_loss(F.normalize(attention(maps[n][-1])), shifted)
        for n, (shifted, _) in shifted_maps.items()
      ),
      common_sd=lambda: _sum(
        _attend(maps[n], targets[n]) for n in self.common[1:]
      ),
      fusion_ce=lambda: cross_entropy(fused_logits, label),
      fusion_kd=lambda: kl(fused_logits, mean, temperature),
      leader_kd=lambda: kl(leader['logits'], fused_logits, temperature),
      fusion=lambda: attention_transfer(maps['leader'][-1], fused.detach()),
      trans_fusion=lambda: attention_transfer(
        self.leader_trans(maps['leader'][-1]), joined
      ),
      leader_sd=lambda: _attend(maps['leader'], targets['leader']),
      decoder=lambda: _sum(self._decoding(n, maps[n]) for n in self.decoders),
    )

  def _decoder(self, name: str) -> Decoder:
    return getattr(self, f'decoder_{name}')

  def _decoding(self, name: str, maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the decoder's distance from a network's shallow maps."""
    decoded = self._decoder(name)(maps[-1].detach(), True)
    targets = [x.detach() for x in maps[-2::-1]]
    return _sum(
      F.mse_loss(
        F.normalize(a.float().flatten(1)), F.normalize(b.float().flatten(1))
      )
      + attention_transfer(a, b)
      for a, b in zip(decoded, targets, strict=True)
    )


def _shifted(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns a map's shifted attention [N,H*W], and the map that has it."""
  raw = attention(x)
  length, unit = raw.norm(dim=1, keepdim=True), F.normalize(raw)
  threshold = unit.kthvalue(unit.shape[1] // 3, 1, keepdim=True).values
  half = length / 2
  shifted = (half - unit) * torch.sign(unit - threshold) + half
  offset = (shifted - unit) * length / x.shape[1]
  return shifted, x + offset.view(len(x), 1, *x.shape[2:])


def _attend(
  maps: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]
) -> torch.Tensor:
  """Returns the attention distance of shallow maps from a decoder's maps."""
  pairs = zip(maps[-2::-1], targets, strict=True)
  return _sum(attention_transfer(x, target) for x, target in pairs)


def _sum(values: Any) -> torch.Tensor:
  return functools.reduce(torch.add, values)


class Projector(nn.Module):
  """A bottleneck of three convolutions, each with BatchNorm and ReLU."""

  def __init__(self, channels: int, width: int, factor: int):
    super().__init__()
    inner_width = width // factor
    self.conv1 = nn.Conv2d(channels, inner_width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(inner_width)
    self.conv2 = nn.Conv2d(inner_width, inner_width, 3, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(inner_width)
    self.conv3 = nn.Conv2d(inner_width, width, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps [N,C,H,W] to [N,width,H,W]."""
    x = F.relu(self.bn1(self.conv1(x)))
    x = F.relu(self.bn2(self.conv2(x)))
    return F.relu(self.bn3(self.conv3(x)))


class PICS(Method):
  """The mean of several projectors before the teacher's classifier."""

  def __init__(
    self,
    networks: Mapping[str, Any],
    taps: Sequence[str],
    projectors: int,
    factor: int,
    **common: Any,
  ):
    super().__init__(**common)
    (self.tap,) = taps
    student, teacher = networks['student'], networks['teacher']
    channels, width = student.channels[self.tap], teacher.channels[self.tap]
    self.reused = nn.ModuleDict(
      {
        f'projector{i}': Projector(channels, width, factor)
        for i in range(projectors)
      }
    )
    self.register_buffer('weight', teacher.fc.weight.detach())
    self.register_buffer('bias', teacher.fc.bias.detach())

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    student, teacher = feats['student'], feats['teacher']
    x, target = aligned(student[self.tap], teacher[self.tap])
    projections = [projector(x) for projector in self.reused.values()]
    projected = functools.reduce(torch.add, projections).float() / len(
      projections
    )
    logits = F.linear(projected.mean((2, 3)), self.weight, self.bias)
    return self.standard(
      logits, teacher['logits'], batch, pics=lambda: mse(projected, target)
    )


class CRD(Method):
  """Contrasts embeddings with two memory banks of all training images.

  The banks are on the device. Their rows are written in place after the
  backward pass, which reads them.
  """

  def __init__(
    self,
    networks: Mapping[str, ResNet],
    labels: np.ndarray,
    width: int,
    negatives: int,
    contrast_temperature: float,
    momentum: float,
    **common: Any,
  ):
    super().__init__(**common)
    self.tau, self.momentum = contrast_temperature, momentum
    self.negatives = negatives
    self.seen: tuple[torch.Tensor, ...] = ()
    bound = (3 / width) ** 0.5
    for name in ('student', 'teacher'):
      linear = nn.Linear(networks[name].channels['pooled'], width)
      self.add_module(f'{name}_embedding', linear)
      bank = torch.empty(len(labels), width).uniform_(-bound, bound)
      self.register_buffer(name, bank)
      self.register_buffer(f'{name}_z', torch.zeros(()))
    others = Others(labels)
    self.least, self.most = others.least, others.most
    for name in ('order', 'behind', 'below'):
      values = torch.from_numpy(getattr(others, name).astype(np.int64))
      self.register_buffer(name, values)

  def drawn(self, labels: torch.Tensor) -> torch.Tensor:
    """Draws positions [N,K] of distinct images of classes other than `labels`.

    A step has one random permutation. The negatives of an image are K
    neighbouring places in that permutation, from a random start, which is a
    draw without replacement. Where classes differ in size, a place out of an
    image's range is permuted again.

    Args:
      labels: The classes of the batch, [N] i64.
    """
    below = self.below[labels][:, None]
    start = torch.rand(below.shape, device=below.device) * below
    places = torch.arange(self.negatives, device=below.device)
    places = (start.long().clamp(max=below - 1) + places) % below
    permutation = torch.randperm(self.most, device=below.device)
    places = permutation[places]
    for _ in range(self.most - self.least):
      places = torch.where(places < below, places, permutation[places])
    behind = self.behind[labels][:, None]
    return self.order[(behind + places) % len(self.order)]

  def forward(self, feats: Mapping[str, Taps], batch: Batch) -> torch.Tensor:
    """Returns the weighted loss; see `Method`."""
    student, teacher = feats['student'], feats['teacher']
    return self.standard(
      student['logits'],
      teacher['logits'],
      batch,
      crd=lambda: self._contrast(student['pooled'], teacher['pooled'], batch),
    )

  def _contrast(
    self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch
  ) -> torch.Tensor:
    positions = batch['index']
    index = batch.get('contrast_index')
    if index is None:
      index = torch.cat([positions[:, None], self.drawn(batch['label'])], 1)
    s = F.normalize(self.student_embedding(student).float())
    t = F.normalize(self.teacher_embedding(teacher).float())
    student_scores, student_z = self._scores(
      s, self.teacher, index, self.student_z
    )
    teacher_scores, teacher_z = self._scores(
      t, self.student, index, self.teacher_z
    )
    self.seen = (positions, s.detach(), t.detach(), student_z, teacher_z)
    return _told_apart(student_scores, len(self.order)) + _told_apart(
      teacher_scores, len(self.order)
    )

  def _scores(
    self,
    embedding: torch.Tensor,
    bank: torch.Tensor,
    index: torch.Tensor,
    fixed: torch.Tensor,
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scores [N,K+1], and the normaliser, which the first step fixes.

    Args:
      embedding: The embeddings of the batch, [N,width] f32.
      bank: The other network's memory bank, [M,width] f32.
      index: The positions of each image and its negatives, [N,K+1] i64.
      fixed: The normaliser so far, [] f32; 0 in the first step.
    """
    # All products and one gather move less memory than K+1 rows per image.
    with torch.autocast(embedding.device.type, enabled=False):
      products = embedding @ bank.T
    similar = torch.exp(products.gather(1, index) / self.tau)
    z = torch.where(fixed > 0, fixed, similar.detach().mean() * len(bank))
    return similar / z, z

  @torch.no_grad()
  def after(self) -> None:
    """Updates the banks' rows of the step's images."""
    if not self.seen:
      return
    positions, s, t, student_z, teacher_z = self.seen
    for bank, embedding in ((self.student, s), (self.teacher, t)):
      updated = (
        self.momentum * bank[positions] + (1 - self.momentum) * embedding
      )
      bank.index_copy_(0, positions, F.normalize(updated))
    self.student_z.copy_(student_z)
    self.teacher_z.copy_(teacher_z)
    self.seen = ()


class Others:
  """The images of other classes, as one cyclic range for each class.

  In the order by class, the images of all other classes follow the end of a
  class, cyclically.

  Attributes:
    order: The positions of the images sorted by class, [M].
    behind: Where each class ends in `order`, [K].
    below: How many images belong to other classes, [K].
    least: The minimum of `below` over classes that have images.
    most: The maximum of `below`.
  """

  def __init__(self, labels: np.ndarray):
    """Sorts the labels [M] of the training images."""
    sizes = np.bincount(labels)
    self.order = np.argsort(labels, kind='stable')
    self.behind = np.cumsum(sizes)
    self.below = len(labels) - sizes
    self.least = int(self.below[sizes > 0].min())
    self.most = int(self.below.max())


def _told_apart(
  scores: torch.Tensor, images: int, epsilon: float = 1e-7
) -> torch.Tensor:
  """Returns the loss of telling the first score from K others, a batch mean.

  Args:
    scores: The score of each image itself and of its negatives, [N,K+1] f32.
    images: The number of training images.
    epsilon: Avoids the logarithm of 0.
  """
  noise = (scores.shape[1] - 1) / images
  positive, negatives = scores[:, 0], scores[:, 1:]
  accepted = torch.log(positive / (positive + noise + epsilon))
  rejected = torch.log(noise / (negatives + noise + epsilon))
  return -(accepted + rejected.sum(1)).mean()


def make(
  given: Mapping[str, Any], networks: Mapping[str, ResNet], labels: np.ndarray
) -> Method:
  """Returns the method that a peer's arguments describe.

  Args:
    given: 'method' (its name), 'method_args', 'weights' and 'classes'.
    networks: All networks by name; the teacher must hold its weights.
    labels: The labels of the training images, [M].
  """
  args = {'weights': given['weights'], **given['method_args']}
  name = given['method']
  if name in ('ce', 'kd'):
    return {'ce': CE, 'kd': KD}[name](**args)
  if name == 'ffsd':
    return FFSD(networks, classes=given['classes'], **args)
  if name == 'crd':
    return CRD(networks, labels, **args)
  constructors: dict[str, Callable[..., Method]] = {
    'fpd': FPD,
    'ofd': OFD,
    'pics': PICS,
  }
  return constructors[name](networks, **args)

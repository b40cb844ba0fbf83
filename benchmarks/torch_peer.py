"""Trains in plain PyTorch what `kd_jax.benchmark --compare` compares with.

It runs in its own process, and kd_jax never imports it. It trains the same
networks and adapters on the same number of random images, with the same batch
size, losses and optimizers: as the field's repositories do (`dataloader`), and
as well as PyTorch can. Variants:

  dataloader   DataLoader workers crop and flip by PIL, and draw CRD's
               negatives; the loss is read every step. This is RepDistiller's
               loop.
  eager        the images are on the device as uint8; crop and flip are one
               gather there
  compiled     as eager, with augmentation, all networks and the method under
               torch.compile, channels-last, and fused SGD; the mode is
               'compile_mode', by default max-autotune
  bfloat16     as compiled, under autocast to bfloat16

The networks are in torch_networks.py, the methods in torch_methods.py. Those of
segmentation and detection are in torch_dense.py, and are eager alone.

Its argument is a JSON object. It prints one line of JSON that describes it;
then, for each input line with a number of steps, how long they took:

  {"ms": milliseconds per step}
"""

from collections.abc import Iterator
import itertools
import json
import os
import pathlib
import random
import re
import sys
import time
from typing import Any

import numpy as np
from PIL import Image, ImageOps
import torch
from torch import nn
import torch_dense
import torch_methods
import torch_networks

_WARM_UP = 1  # steps after the first, before any turn that is timed


class Pictures(torch.utils.data.Dataset):
  """Images [M,H,W,3] u8, which PIL crops and flips and PyTorch normalises."""

  def __init__(self, images: np.ndarray, labels: np.ndarray, given: Any):
    self.images, self.labels = images, labels
    self.padding, self.flip = given['padding'], given['flip']
    self.mode = given['padding_mode']
    self.mean = torch.tensor(given['mean']).view(3, 1, 1)
    self.std = torch.tensor(given['std']).view(3, 1, 1)
    self.contrast = given['method'] == 'crd'
    if self.contrast:
      self.negatives = given['method_args']['negatives']
      self.others = torch_methods.Others(labels)
      self.rng: np.random.Generator | None = None  # made in each worker

  def __len__(self) -> int:
    """Returns the number of images."""
    return len(self.labels)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Returns an 'image' [3,H,W] f32 and its 'label'; for CRD also its indices.

    For CRD these are 'index' and 'contrast_index' [K+1], the image's position
    followed by those of its negatives.
    """
    image = Image.fromarray(self.images[index])
    if self.padding:
      width, height = image.size
      x = random.randint(0, 2 * self.padding)
      y = random.randint(0, 2 * self.padding)
      image = self._wide(image).crop((x, y, x + width, y + height))
    if self.flip and random.random() < 0.5:
      image = ImageOps.mirror(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    scaled = pixels.contiguous().float().div_(255)
    example = {
      'image': scaled.sub_(self.mean).div_(self.std),
      'label': int(self.labels[index]),
    }
    if self.contrast:
      negatives = self._drawn(example['label'])
      example |= {'index': index, 'contrast_index': np.append(index, negatives)}
    return example

  def _wide(self, image: Any) -> Any:
    if self.mode == 'zero':
      return ImageOps.expand(image, self.padding, 0)
    edge = (self.padding,) * 2
    return Image.fromarray(np.pad(image, (edge, edge, (0, 0)), self.mode))

  def _drawn(self, label: int) -> np.ndarray:
    """Returns positions [K] of distinct images of other classes."""
    if self.rng is None:
      self.rng = np.random.default_rng(torch.initial_seed())
    places = self.rng.choice(
      self.others.below[label], self.negatives, replace=False, shuffle=False
    )
    sorted_places = (self.others.behind[label] + places) % len(self)
    return self.others.order[sorted_places]


class Objective(nn.Module):
  """All networks, and the method over their taps.

  Attributes:
    students: The networks that are trained, by name.
    teacher: The frozen network; None if the method has none.
    method: The method with its adapters.
    dtype: The dtype in which networks and adapters compute.
  """

  def __init__(self, given: dict[str, Any], labels: np.ndarray):
    """Initialises random weights, for labels [M] of the training images."""
    super().__init__()
    self.students = nn.ModuleDict(
      {name: _network(given, 'student') for name in given['students']}
    )
    self.teacher = None
    networks = dict(self.students.items())
    if given['teacher']:
      network = _network(given, 'teacher')
      self.teacher = networks['teacher'] = torch_networks.frozen(network)
    self.method = torch_methods.make(given, networks, labels)
    if given['task'] in torch_dense.SUPERVISED:
      self.method.supervised = torch_dense.SUPERVISED[given['task']]
    half = given['variant'] == 'bfloat16'
    self.dtype = torch.bfloat16 if half else torch.float32

  def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the loss [] f32 of a batch.

    Args:
      batch: 'image' [N,3,H,W] f32, and what `torch_methods.Batch` has.
    """
    images = batch['image']
    half = self.dtype == torch.bfloat16
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
      feats = {}
      if self.teacher is not None:
        with torch.no_grad():
          feats['teacher'] = self.teacher(images)
      feats |= {name: net(images) for name, net in self.students.items()}
      return self.method(feats, batch)

  def trained(self) -> dict[str, nn.Parameter]:
    """Returns the trained parameters by path, with the names of kd_jax."""
    modules = {**self.students, 'method': self.method}
    return {
      f'{name}/{path.replace(".", "/")}': parameter
      for name, module in modules.items()
      for path, parameter in module.named_parameters()
      if parameter.requires_grad
    }


def _network(given: dict[str, Any], role: str) -> nn.Module:
  args = given[role]
  dense = args['name'] in torch_dense.NAMES
  make = torch_dense.make if dense else torch_networks.ResNet
  return make(classes=given['classes'], **args)


def optimizers(
  parameters: dict[str, nn.Parameter],
  rules: list[tuple[str, dict[str, Any]]],
  fused: bool | None,
) -> list[torch.optim.Optimizer]:
  """Returns one SGD and one Adam, each if a parameter uses it.

  Args:
    parameters: The parameters by path.
    rules: Pairs of a regular expression and the fields of an optimizer. A
      parameter takes the first rule whose expression is found in its path.
    fused: See torch.optim.SGD.
  """
  matched: list[list[nn.Parameter]] = [[] for _ in rules]
  for path, parameter in parameters.items():
    index = next(i for i, (r, _) in enumerate(rules) if re.search(r, path))
    matched[index].append(parameter)
  groups: dict[str, list[dict[str, Any]]] = {'sgd': [], 'adam': []}
  for (_, fields), params in zip(rules, matched, strict=True):
    options = dict(fields)
    name = options.pop('name')
    if name == 'adam':
      options = {key: options[key] for key in ('lr', 'weight_decay')}
    if params:
      groups[name].append({'params': params, **options})
  classes = {'sgd': torch.optim.SGD, 'adam': torch.optim.Adam}
  return [
    classes[name](param_groups, fused=fused)
    for name, param_groups in groups.items()
    if param_groups
  ]


class Peer:
  """One variant, ready to train."""

  def __init__(self, given: dict[str, Any]):
    self.given, self.variant = given, given['variant']
    self.before = _resident()
    self.dense = given['task'] in torch_dense.SUPERVISED
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    self.compiled = self.variant in ('compiled', 'bfloat16')
    layout = torch.channels_last if self.compiled else torch.contiguous_format
    rng = np.random.default_rng(0)
    size = given['image_size']
    images = rng.integers(0, 256, (given['images'], size, size, 3), np.uint8)
    labels = np.arange(given['images']) % given['classes']
    self.objective = Objective(given, labels).to(
      self.device, memory_format=layout
    )
    self.optimizers = optimizers(
      self.objective.trained(), given['rules'], True if self.compiled else None
    )
    self.mean = torch.tensor(given['mean'], device=self.device)
    self.std = torch.tensor(given['std'], device=self.device)
    self.loss = self._from_indices
    if self.compiled:
      torch.set_float32_matmul_precision('high')
      mode = self.given.get('compile_mode', 'max-autotune')
      self.loss = torch.compile(self._from_indices, mode=mode)
    if self.variant == 'dataloader':
      self.batches = self._loaded(images, labels)
    else:
      self.batches = self._indices(len(labels))
      # All images are padded once, so that a crop is a gather.
      edge = (given['padding'],) * 2
      mode = {'zero': 'constant'}.get(given['padding_mode'], 'reflect')
      wide = np.pad(images, ((0, 0), edge, edge, (0, 0)), mode)
      self.images = torch.from_numpy(wide).to(self.device)
      sizes = (given[key] for key in ('images', 'classes', 'image_size'))
      targets = (
        torch_dense.targets(given['task'], *sizes)
        if self.dense
        else {'label': labels}
      )
      self.targets = {
        name: torch.from_numpy(x).to(self.device) for name, x in targets.items()
      }

  def _loaded(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
    """Returns batches that worker processes make."""
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
    """Yields indices on the device, of a new permutation each epoch."""
    size = self.given['batch_size']
    while True:
      order = torch.randperm(count, device=self.device)
      for start in range(0, count - size + 1, size):
        yield order[start : start + size]

  def _augmented(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns a batch, whose images are cropped and flipped by one gather."""
    size, most = self.given['image_size'], 2 * self.given['padding']
    count, device = len(index), self.device
    inside = torch.arange(size, device=device)[None, :]
    y = torch.randint(0, most + 1, (count, 1), device=device) + inside
    x = torch.randint(0, most + 1, (count, 1), device=device) + inside
    batch = {name: values[index] for name, values in self.targets.items()}
    if self.given['flip']:
      flipped = torch.rand((count, 1), device=device) < 0.5
      x = torch.where(flipped, x.flip(1), x)
      if self.dense:
        batch = torch_dense.flipped(batch, flipped)
    pixels = self.images[index[:, None, None], y[:, :, None], x[:, None, :]]
    images = (pixels.float() / 255 - self.mean) / self.std
    images = images.permute(0, 3, 1, 2)
    images = images if self.compiled else images.contiguous()
    return batch | {'image': images, 'index': index}

  def _from_indices(self, index: torch.Tensor) -> torch.Tensor:
    return self.objective(self._augmented(index))

  def step(self) -> None:
    """Trains one step."""
    batch = next(self.batches)
    if self.variant == 'dataloader':
      loss = self.objective(
        {k: x.to(self.device, non_blocking=True) for k, x in batch.items()}
      )
    else:
      if self.compiled and self.device == 'cuda':
        torch.compiler.cudagraph_mark_step_begin()
      loss = self.loss(batch)
    for optimizer in self.optimizers:
      optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer in self.optimizers:
      optimizer.step()
    self.objective.method.after()
    if self.variant == 'dataloader':
      loss.item()  # as RepDistiller's meters do

  def turn(self, steps: int) -> float:
    """Trains `steps` steps and returns the milliseconds per step."""
    began = time.perf_counter()
    for _ in range(steps):
      self.step()
    if self.device == 'cuda':
      torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / steps

  def about(self, compile_s: float) -> dict[str, Any]:
    """Returns the facts that its figures are reported with.

    Args:
      compile_s: The seconds of the first step, with compilation.
    """
    name = f'{torch.get_num_threads()} CPU threads'
    memory = _resident()
    if memory is not None and self.before is not None:
      memory -= self.before
    memory_by = "growth of PyTorch's resident memory"
    if self.device == 'cuda':
      name = torch.cuda.get_device_name()
      memory = torch.cuda.max_memory_allocated()
      memory_by = "PyTorch's peak"
    students, method = self.objective.students, self.objective.method
    return {
      'compile_s': compile_s,
      'dtype': 'bfloat16' if self.variant == 'bfloat16' else 'float32',
      'hardware': name,
      'memory_bytes': memory,
      'memory_by': memory_by,
      'params': sum(p.numel() for p in students.parameters()),
      'extra_params': sum(p.numel() for p in method.parameters()),
      'torch': torch.__version__,
    }


def _resident() -> int | None:
  """Returns the most bytes of this process in memory so far; None if unknown.

  `getrusage` would give those of the process that started it, where they are
  more.
  """
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    return None
  return 1024 * int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1])


def native_bfloat16() -> bool:
  """Returns whether the device multiplies bfloat16 in hardware."""
  if torch.cuda.is_available():
    return torch.cuda.get_device_capability() >= (8, 0)
  is_supported = getattr(torch.cpu, '_is_avx512_bf16_supported', None)
  return is_supported is not None and is_supported()


def left_out(given: dict[str, Any]) -> str:
  """Returns why a variant cannot train what is asked for; '' if it can."""
  known = (*torch_networks.SHAPES, *torch_dense.NAMES)
  for network in (given['student'], given['teacher']):
    if network and network['name'] not in known:
      return f'it has no network {network["name"]!r}'
  if given['task'] in torch_dense.SUPERVISED:
    if given['variant'] != 'eager':
      return 'of dense tasks there is an eager loop alone'
    if given['padding']:
      return 'it mirrors masks and boxes, and crops none'
  return ''


def main() -> None:
  """Answers requests until standard input ends."""
  arguments = json.loads(sys.argv[1])
  # Only answers go to the original standard output; prints go to stderr.
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=answers, flush=True)

  if arguments['variant'] == 'bfloat16' and not native_bfloat16():
    answer({'left_out': 'this device has no bfloat16 of its own'})
    return
  if reason := left_out(arguments):
    answer({'left_out': reason})
    return
  peer = Peer(arguments)
  first_ms = peer.turn(1)
  warm_ms = peer.turn(_WARM_UP)
  answer({**peer.about(first_ms / 1e3), 'warm_ms': warm_ms})
  for line in sys.stdin:
    answer({'ms': peer.turn(int(line))})


if __name__ == '__main__':
  main()

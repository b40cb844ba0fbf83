"""Writes augment.npz: what timm and torchvision make of images and labels.

  PYTHONPATH=. python tests/vectors/make_augment.py

It needs PyTorch, torchvision and timm; the tests read the file.
"""

import itertools
import json
import pathlib

import numpy as np
from PIL import Image
from timm.data import mixup
import torch
from torchvision import transforms
from torchvision.transforms import autoaugment, functional

FILE = pathlib.Path(__file__).with_name('augment.npz')


def boxes():
  """(side, ratio, centre, first, last) of timm's boxes along an axis."""
  rows = []
  for side, ratio in itertools.product((8, 31, 224), (0.05, 0.3, 0.62, 0.97)):
    for centre in (0, side // 3, side - 1):
      randint = np.random.randint
      np.random.randint = lambda low, high, size, at=centre: np.asarray(at)
      try:
        first, last, _, _ = mixup.rand_bbox((side, side), ratio)
      finally:
        np.random.randint = randint
      rows.append((side, ratio, centre, first, last))
  return np.asarray(rows, np.float64)


# What of torchvision's magnitudes is tried, beside those of the policies.
STRENGTHS = {
  'ShearX': (0.3, -0.99, 0.099), 'ShearY': (-0.3, 0.99, 0.066),
  'TranslateX': (7.25, -3.9), 'TranslateY': (-7.25, 32.0),
  'Rotate': (9.0, -30.0, 135.0), 'Brightness': (0.27, -0.9),
  'Color': (0.27, -0.99), 'Contrast': (0.9, -0.27), 'Sharpness': (0.99, -0.3),
  'Posterize': (8, 5, 2), 'Solarize': (255.0, 178.5, 0.0),
  'AutoContrast': (0.0,), 'Equalize': (0.0,), 'Invert': (0.0,),
  'Identity': (0.0,),
}  # fmt: skip


def picture():
  """An image [16,16,3] u8 with gradients, edges and noise."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:16, :16]
  smooth = np.stack([9 * y + 4 * x, 14 * x, 120 + 5 * y - 6 * x], -1)
  smooth[4:9, 6:12] += 60
  return (smooth + rng.integers(0, 20, smooth.shape)).clip(0, 255).astype('u1')


def operated(image):
  """Cases [name, magnitude], and torchvision's images of them."""
  cases = [[n, m] for n, each in STRENGTHS.items() for m in each]
  nearest = transforms.InterpolationMode.NEAREST
  images = [
    autoaugment._apply_op(image, name, strength, nearest, None)
    for name, strength in cases
  ]
  for share in (0.1, -0.37):
    cases.append(['hue', share])
    images.append(functional.adjust_hue(image, share))
  return cases, np.stack([np.asarray(image) for image in images])


def spaces():
  """Magnitudes and signs by policy and side of the image."""
  auto, wide = transforms.AutoAugment(), transforms.TrivialAugmentWide()
  rand = transforms.RandAugment()
  found = {}
  for side in (8, 32, 224):
    sides = (side, side)
    for policy, space in {
      'autoaugment_cifar10': auto._augmentation_space(10, sides),
      'randaugment': rand._augmentation_space(31, sides),
      'trivialaugment': wide._augmentation_space(31),
    }.items():
      found[f'{policy} {side}'] = {
        name: [np.atleast_1d(values.numpy()).tolist(), signed]
        for name, (values, signed) in space.items()
      }
  return found


def tables():
  """AutoAugment's tables."""
  policy = transforms.AutoAugmentPolicy
  return {
    f'autoaugment_{name}': transforms.AutoAugment(which).policies
    for name, which in (
      ('cifar10', policy.CIFAR10),
      ('imagenet', policy.IMAGENET),
    )
  }


def main():
  image = picture()
  cases, images = operated(Image.fromarray(image))
  label = np.array([0, 3, 1, 4])
  ratio, smoothing = 0.3, 0.1
  target = mixup.mixup_target(
    torch.from_numpy(label), 5, lam=ratio, smoothing=smoothing
  )
  np.savez_compressed(
    FILE,
    boxes=boxes(),
    label=label,
    target=target.numpy(),
    target_of=(ratio, smoothing),
    image=image,
    operations=json.dumps(cases),
    operated=images,
    spaces=json.dumps(spaces()),
    tables=json.dumps(tables()),
  )


if __name__ == '__main__':
  main()

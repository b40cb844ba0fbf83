"""Makes a folder of JPEG files that cost as much to decode as photographs.

python benchmarks/make_jpegs.py FOLDER [FILES]

FOLDER must be new or empty. train/<class>/*.jpg gets FILES (800) images, in 8
classes, and test/ 2 images of each class. A file has about 500x375 pixels and
110 kB, as ImageNet's do. The images are random fields in three correlated
colours, whose amplitude falls with frequency as in photographs.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

_CLASSES = 8
_SLOPE = 1.2  # the amplitude is frequency**-_SLOPE
_CONTRAST = 55.0  # the standard deviation of grey values
_COLOUR = 0.3  # a colour's share of the contrast
_NOISE = 4.0  # grey values, independent for every pixel
_QUALITY = 92


def field(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Returns a smooth random field [height,width] with standard deviation 1."""
  y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
  frequency = np.maximum(np.hypot(y, x), 1 / max(height, width))
  spectrum = np.fft.rfft2(rng.standard_normal((height, width)))
  smooth = np.fft.irfft2(spectrum / frequency**_SLOPE, (height, width))
  return (smooth - smooth.mean()) / smooth.std()


def picture(rng: np.random.Generator) -> Image.Image:
  """Returns a random image; three in four are landscape, one is portrait."""
  width, height = rng.integers(460, 541), rng.integers(345, 406)
  if rng.random() < 0.25:
    width, height = height, width
  grey = field(height, width, rng)[:, :, None]
  tint = np.stack([field(height, width, rng) for _ in range(3)], -1)
  values = 120 + _CONTRAST * (grey + _COLOUR * tint)
  values += _NOISE * rng.standard_normal(values.shape)
  return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def main() -> None:
  """Writes the files, which are identical on every run."""
  folder = pathlib.Path(sys.argv[1])
  count = int(sys.argv[2]) if len(sys.argv) > 2 else 800
  if folder.exists() and any(folder.iterdir()):
    sys.exit(f'{folder} is not empty: give a new folder')
  total_bytes = 0
  for split, number in (('train', count), ('test', 2 * _CLASSES)):
    for i in range(number):
      rng = np.random.default_rng([i, split == 'test'])
      path = folder / split / f'class{i % _CLASSES}' / f'{i:05d}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      picture(rng).save(path, quality=_QUALITY)
      total_bytes += path.stat().st_size
  files = count + 2 * _CLASSES
  print(
    f'{files} files, {total_bytes / files / 1e3:.0f} kB on average, in {folder}'
  )


if __name__ == '__main__':
  main()

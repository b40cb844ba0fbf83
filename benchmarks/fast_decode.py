"""Measures what `config.data.fast_decode` changes and saves, on photographs.

python benchmarks/fast_decode.py

The photographs are scikit-learn's two, scaled and written as JPEG files of
quality 90. For random resized crops it prints how many are decoded at 1/2, 1/4
or 1/8, by what their pixels then differ from those of a whole decoding (mean
absolute difference in levels of 255, and PSNR), and the CPU time of a crop by
both, in turns.
"""

from collections.abc import Callable
import io
import time

import numpy as np
from PIL import Image
from sklearn import datasets

from kd_jax.data import decode

# Width and height of the file, and the size of the network's input, in pixels.
_CASES = (
  ((500, 375), 224), ((500, 375), 112), ((500, 375), 64), ((1000, 750), 224),
  ((1600, 1200), 224), ((4000, 3000), 224),
)  # fmt: skip
_AREA = (0.08, 1.0)
_CROPS, _TURNS, _TIMED = 40, 5, 10


def whole(content: bytes, size: int, seed: int) -> np.ndarray:
  """Returns a crop [size,size,3] u8 of a whole decoding."""
  image, rng = decode.decode(content, ''), np.random.default_rng(seed)
  return decode.random_resized_crop(image, size, rng, _AREA)


def fast(content: bytes, size: int, seed: int) -> np.ndarray:
  """Returns the crop by `config.data.fast_decode`."""
  rng = np.random.default_rng(seed)
  return decode.decoded_crop(content, '', size, rng, _AREA)


def files(sides: tuple[int, int]) -> list[bytes]:
  """Returns the photographs as JPEG files of a width and height."""
  contents = []
  for photo in datasets.load_sample_images().images:
    scaled = Image.fromarray(photo).resize(sides, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    scaled.save(content, 'JPEG', quality=90)
    contents.append(content.getvalue())
  return contents


def differences(contents: list[bytes], size: int) -> str:
  """Returns how many crops differ, and by what."""
  levels, psnr = [], []
  for content in contents:
    for seed in range(_CROPS):
      other = whole(content, size, seed).astype(float)
      off = fast(content, size, seed) - other
      if off.any():
        levels.append(np.abs(off).mean())
        psnr.append(10 * np.log10(255**2 / np.square(off).mean()))
  share = len(levels) / len(contents) / _CROPS
  if not levels:
    return f'{share:4.0%} reduced'
  return (
    f'{share:4.0%} reduced, by {np.mean(levels):.1f} levels, PSNR '
    f'{np.median(psnr):.1f} dB (least {min(psnr):.1f})'
  )


def took(crop: Callable[..., np.ndarray], contents: list[bytes], size: int):
  """Returns the CPU time of a crop, in ms."""
  began = time.process_time()
  for content in contents:
    for seed in range(_TIMED):
      crop(content, size, seed)
  return 1e3 * (time.process_time() - began) / _TIMED / len(contents)


def main() -> None:
  """Prints a line for each case."""
  for sides, size in _CASES:
    contents = files(sides)
    turns = np.array(
      [[took(f, contents, size) for f in (whole, fast)] for _ in range(_TURNS)]
    )
    ratio = turns[:, 0] / turns[:, 1]
    print(
      f'{sides[0]}x{sides[1]} to {size}: {differences(contents, size)}; ms of '
      f'CPU {np.median(turns[:, 0]):.2f} whole, {np.median(turns[:, 1]):.2f} '
      f'fast, ratio {np.median(ratio):.2f} ({ratio.min():.2f}-'
      f'{ratio.max():.2f}), n={_TURNS}',
      flush=True,
    )


if __name__ == '__main__':
  main()

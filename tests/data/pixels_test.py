"""The pixels of every kind of file, against readings by NumPy alone."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
import pytest

from kd_jax import errors
from kd_jax.data import decode
from kd_jax.data.sets import npz
from kd_jax.export import predict_template

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)
GREY.flat[:4] = 0, 65535, 128, 129
COLOURS = RNG.integers(0, 256, (9, 7, 4)).astype(np.uint8)


def rounded(levels, top):
  """Levels from 0 to `top` as grey [h,w,3] from 0 to 255."""
  grey = np.floor(levels.astype(np.float64) * 255 / top + 0.5)
  return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def png(samples, colour_type):
  """A PNG of big-endian samples [h,w,c], without Pillow."""

  def chunk(kind, content):
    packed = kind + content
    checksum = struct.pack('>I', zlib.crc32(packed))
    return struct.pack('>I', len(content)) + packed + checksum

  height, width = samples.shape[:2]
  bits = 8 * samples.dtype.itemsize
  header = struct.pack('>2I5B', width, height, bits, colour_type, 0, 0, 0)
  rows = b''.join(b'\0' + row.tobytes() for row in samples)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )


def pgm(levels, top):
  height, width = levels.shape
  return (
    b'P5 %d %d %d\n' % (width, height, top) + levels.astype('>u2').tobytes()
  )


def tiff(samples, **tags):
  """A TIFF of one uncompressed strip of grey samples, without Pillow."""
  height, width = samples.shape
  entries = {
    256: width, 257: height, 258: 8 * samples.dtype.itemsize, 259: 1, 262: 1,
    273: 8, 277: 1, 278: height, 279: samples.nbytes,
    **{int(tag[1:]): value for tag, value in tags.items()},
  }  # fmt: skip
  order = '>' if samples.dtype.str[0] == '>' else '<'
  fields = b''.join(
    struct.pack(f'{order}HHII', tag, 4, 1, value)
    for tag, value in sorted(entries.items())
  )
  start = 8 + samples.nbytes
  head = (b'MM' if order == '>' else b'II') + struct.pack(
    f'{order}HI', 42, start
  )
  count = struct.pack(f'{order}H', len(entries))
  return head + samples.tobytes() + count + fields + bytes(4)


def saved(mode, file_format, **options):
  """The colours in some mode, as a file."""
  file = io.BytesIO()
  bands = COLOURS[..., : Image.getmodebands(mode)]
  image = Image.frombytes(mode, (7, 9), bands.tobytes())
  image.save(file, file_format, **options)
  return file.getvalue()


def alone(content):
  """What the exported predict.py makes of a file."""
  with Image.open(io.BytesIO(content)) as image:
    return predict_template.rgb(image)


DEEP = {
  'png': (png(GREY.astype('>u2')[..., None], 0), 65535, GREY),
  'pgm': (pgm(GREY, 65535), 65535, GREY),
  'pgm of 10 bits': (pgm(GREY >> 6, 1023), 1023, GREY >> 6),
  'tiff': (tiff(GREY.astype('<u2')), 65535, GREY),
  'tiff, big-endian': (tiff(GREY.astype('>u2')), 65535, GREY),
}


@pytest.mark.parametrize('kind', DEEP)
def test_grey_of_16_bits_keeps_its_levels(kind):
  content, top, levels = DEEP[kind]
  want = rounded(levels, top)
  np.testing.assert_array_equal(decode.decode(content, 'x'), want)
  np.testing.assert_array_equal(alone(content), want)


def test_grey_of_jpeg_2000_keeps_its_levels():
  file = io.BytesIO()
  Image.fromarray(GREY).save(file, 'JPEG2000', irreversible=False)
  got = decode.decode(file.getvalue(), 'x')
  np.testing.assert_array_equal(got, rounded(GREY, 65535))
  np.testing.assert_array_equal(got, alone(file.getvalue()))


@pytest.mark.parametrize(('colour_type', 'count'), [(2, 3), (4, 2), (6, 4)])
def test_other_png_files_of_16_bits_keep_the_upper_byte(colour_type, count):
  samples = RNG.integers(0, 65536, (9, 7, count)).astype('>u2')
  content = png(samples, colour_type)
  shown = samples[..., :3] if count > 2 else samples[..., [0, 0, 0]]
  want = (shown >> 8).astype(np.uint8)
  np.testing.assert_array_equal(decode.decode(content, 'x'), want)
  np.testing.assert_array_equal(alone(content), want)


UNKNOWN = {
  'i32': tiff(GREY.astype('<i4'), _339=2),
  'u32': tiff(GREY.astype('<u4')),
  'i16': tiff(GREY.astype('<i2'), _339=2),
  'i8': tiff(GREY.astype('i1'), _339=2),
  'f32': tiff(GREY.astype('<f4'), _339=3),
  'white is 0': tiff(GREY.astype('<u2'), _262=0),
  'pfm': b'Pf 7 9 -1\n' + GREY.astype('<f4').tobytes(),
}


@pytest.mark.parametrize('kind', UNKNOWN)
def test_pixels_of_no_known_range_are_refused(kind):
  content = UNKNOWN[kind]
  with pytest.raises(errors.UsageError, match=r'^unreadable image x: its pix'):
    decode.decode(content, 'x')
  with pytest.raises(ValueError, match='no known range'):
    alone(content)


def palette(index):
  return np.stack([255 - index, index, index // 2], axis=-1).astype(np.uint8)


def indexed(**options):
  file = io.BytesIO()
  image = Image.frombytes('P', (7, 9), COLOURS[..., 0].tobytes())
  image.putpalette(palette(np.arange(256)).tobytes())
  image.save(file, 'PNG', **options)
  return file.getvalue()


def ycc(colours):
  """RGB of Y, Cb and Cr, as JFIF has it."""
  y, cb, cr = colours[..., :3].astype(np.float64).transpose(2, 0, 1)
  cb, cr = cb - 128, cr - 128
  green = y - 0.344136 * cb - 0.714136 * cr
  return np.stack([y + 1.402 * cr, green, y + 1.772 * cb], axis=-1).clip(0, 255)


def ink(colours):
  """RGB of cyan, magenta, yellow and black."""
  left = 255.0 - colours.astype(np.float64)
  return left[..., :3] * left[..., 3:] / 255


FIRST = COLOURS[..., 0]
MODES = {
  # name: file, the pixels, and by how much a rounding may differ
  'L': (tiff(FIRST), FIRST[..., None].repeat(3, -1), 0),
  'L, white is 0': (
    tiff(FIRST, _262=0), 255 - FIRST[..., None].repeat(3, -1), 0
  ),
  'L of 4 bits': (
    b'P5 7 9 15\n' + (FIRST >> 4).tobytes(), rounded(FIRST >> 4, 15), 0
  ),
  '1': (
    b'P1 7 9\n' + b' '.join(b'%d' % b for b in (FIRST < 99).flat),
    np.where(FIRST < 99, 0, 255)[..., None].repeat(3, -1), 0,
  ),
  'LA': (saved('LA', 'PNG'), FIRST[..., None].repeat(3, -1), 0),
  'LA in TIFF': (saved('LA', 'TIFF'), FIRST[..., None].repeat(3, -1), 0),
  'P': (indexed(), palette(FIRST), 0),
  'P, transparent': (
    indexed(transparency=bytes(range(256))), palette(FIRST), 0
  ),
  'RGB': (saved('RGB', 'PNG'), COLOURS[..., :3], 0),
  'RGB in BMP': (saved('RGB', 'BMP'), COLOURS[..., :3], 0),
  'RGBA': (saved('RGBA', 'PNG'), COLOURS[..., :3], 0),
  'RGBA in WebP': (
    saved('RGBA', 'WEBP', lossless=True, exact=True), COLOURS[..., :3], 0
  ),
  'RGBX': (saved('RGBX', 'TIFF'), COLOURS[..., :3], 0),
  'CMYK': (saved('CMYK', 'TIFF'), ink(COLOURS), 1),
  'YCbCr': (saved('YCbCr', 'TIFF'), ycc(COLOURS), 1.5),
}  # fmt: skip


@pytest.mark.parametrize('name', MODES)
def test_every_mode_is_read_as_numpy_reads_it(name):
  content, want, tolerance = MODES[name]
  got = decode.decode(content, 'x')
  assert got.dtype == np.uint8
  np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)
  np.testing.assert_array_equal(got, alone(content))


def test_a_palette_with_alpha_and_cielab_are_read():
  file, index = io.BytesIO(), np.arange(63, dtype=np.uint8).reshape(9, 7)
  image = Image.frombytes('P', (7, 9), index.tobytes())
  image.putpalette(palette(np.arange(256)).tobytes())
  image.convert('PA').save(file, 'TIFF')
  got = decode.decode(file.getvalue(), 'x')
  np.testing.assert_array_equal(got, palette(index))
  file = io.BytesIO()
  white = np.zeros((9, 7, 3), np.uint8)
  white[..., 0] = 255
  Image.frombytes('LAB', (7, 9), white.tobytes()).save(file, 'TIFF')
  assert decode.decode(file.getvalue(), 'x').min() >= 254


def huge():
  file = io.BytesIO()
  Image.new('1', (20000, 10000)).save(file, 'PNG')
  return file.getvalue()


def huge_jpeg():
  """A JPEG of 8 pixels whose header says that it has 65,500 by 65,500."""
  content = io.BytesIO()
  Image.new('RGB', (8, 8)).save(content, 'JPEG')
  content = bytearray(content.getvalue())
  at = content.index(b'\xff\xc0') + 5
  content[at : at + 4] = struct.pack('>2H', 65500, 65500)
  return bytes(content)


@pytest.mark.parametrize('make', [huge, huge_jpeg])
def test_an_image_of_too_many_pixels_is_refused(make):
  with pytest.raises(errors.UsageError, match=r'image x: it has more than \d+'):
    decode.decode(make(), 'x')


@pytest.mark.parametrize('kind', 'bhilqBHILQefdgFD?mMSUV')
def test_an_npz_file_has_images_of_one_dtype_and_whole_labels(tmp_path, kind):
  dtype = np.dtype({'m': 'm8[s]', 'M': 'M8[s]'}.get(kind, kind))
  dtype = np.dtype(f'{kind}4') if kind in 'SUV' else dtype
  made = {}
  for split in ('train', 'test'):
    made[f'{split}_images'] = COLOURS[:6, :6].transpose(2, 0, 1)
    made[f'{split}_labels'] = np.arange(4) % 2
  for array in ('images', 'labels'):
    changed = made[f'train_{array}'].astype(np.uint8).astype('S4')
    if kind not in 'SUV':
      changed = made[f'train_{array}'].astype(np.uint8).astype('i8')
    given = {**made, f'train_{array}': changed.astype(dtype)}
    np.savez(tmp_path / 'x.npz', **given)
    if kind == 'B' or (array == 'labels' and kind in 'bhilqHILQ'):
      opened = npz.open_npz(f'npz:{tmp_path}/x.npz')
      for i in range(4):
        image, label = opened.split('train').read(i)
        np.testing.assert_array_equal(
          image, made['train_images'][i][..., None].repeat(3, -1)
        )
        assert label == i % 2
    else:
      with pytest.raises(errors.UsageError, match=f'train_{array} has dtype'):
        npz.open_npz(f'npz:{tmp_path}/x.npz')


def scaled_whole(image, size):
  """Scales the whole image, and crops it then."""
  height, width = image.shape[:2]
  scale = size * 8 / 7 / min(height, width)
  sides = max(size, round(width * scale)), max(size, round(height * scale))
  left, top = (sides[0] - size) // 2, (sides[1] - size) // 2
  scaled = Image.fromarray(image).resize(sides, Image.Resampling.BILINEAR)
  return np.asarray(scaled.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize('size', [8, 32, 97])
def test_fit_keeps_every_bit_of_images_that_are_no_strips(size):
  rng = np.random.default_rng(0)
  for shape in ((9, 7), (7, 9), (40, 30), (3, 100), (100, 3), (200, 333)):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    want = scaled_whole(image, size)
    np.testing.assert_array_equal(decode.fit(image, size), want)
    alone = predict_template.fit(Image.fromarray(image), size)
    np.testing.assert_array_equal(np.asarray(alone), want)


@pytest.mark.parametrize('shape', [(2, 501), (1, 999), (701, 7), (1500, 3)])
def test_the_middle_of_a_strip_is_that_of_the_whole_up_to_rounding(shape):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  got = decode.fit(image, 64)
  # Pillow keeps the edges of a box in float32.
  np.testing.assert_allclose(got, scaled_whole(image, 64), rtol=0, atol=1)
  alone = predict_template.fit(Image.fromarray(image), 64)
  np.testing.assert_array_equal(np.asarray(alone), got)

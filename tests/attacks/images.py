"""Images that cost much, start a program, or are damaged.

Each is read as training and `kd-jax predict` read it, and as the exported
predict.py does: the pixels are right, or there is one line, and the memory
stays within a bound.
"""

import contextlib
import io
import os
import pathlib
import resource
import signal
import struct
import sys
import zlib

import numpy as np
from PIL import Image
import pytest

from kd_jax import errors
from kd_jax.cli import predict
from kd_jax.data import decode
from kd_jax.export import predict_template
from tests import children
from tests.attacks import attack

SIZE = 224
COLOURS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def of_training(path):
  return decode.fit(decode.read(path), SIZE)


def of_predict_py(path):
  return predict_template.read(path, SIZE)[0][0]


READERS = (of_training, of_predict_py)


@contextlib.contextmanager
def at_most(megabytes):
  """Lets this process take so many megabytes more than it has."""
  before = resource.getrlimit(resource.RLIMIT_AS)
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
  most = pages * resource.getpagesize() + megabytes * 2**20
  resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, before)


def refusal(read, path):
  """Returns the line with which a reader refuses a file; '' if it does not."""
  try:
    assert read(path).shape == (SIZE, SIZE, 3)
    return ''
  except (errors.UsageError, ValueError) as error:
    said = str(error)
  assert len(said.splitlines()) == 1, said
  assert path.name in said, said
  return said


def check_each(place, content, name='x.png', megabytes=600):
  """Reads a file in each way, and returns the refusals."""
  path = place / name
  path.write_bytes(content)
  with at_most(megabytes):
    return [refusal(read, path) for read in READERS]


def chunk(kind, data):
  return (
    struct.pack('>I', len(data))
    + kind
    + data
    + struct.pack('>I', zlib.crc32(kind + data))
  )


def png(width, height, data=None, *, colour=0, before=()):
  """Returns a PNG of a byte a pixel, which is grey or an index."""
  if data is None:
    data = bytes((width + 1) * height)
  head = struct.pack('>2I5B', width, height, 8, colour, 0, 0, 0)
  parts = [(b'IHDR', head), *before, (b'IDAT', zlib.compress(data, 1))]
  body = b''.join(chunk(*part) for part in (*parts, (b'IEND', b'')))
  return b'\x89PNG\r\n\x1a\n' + body


def saved(form, pixels=COLOURS, **options):
  content = io.BytesIO()
  Image.fromarray(pixels).save(content, form, **options)
  return content.getvalue()


STRIPS = [(60000, 1), (1, 60000), (40000, 2), (2, 40000), (3, 20000), (700, 1)]


@attack(quick=True, cases={f'{w}x{h}': (w, h) for w, h in STRIPS})
def strip(place, shape):
  """A strip is shown, and only the part that is kept is scaled."""
  assert not any(check_each(place, png(*shape)))


@attack(quick=False)
def longest_strip(place):
  """A strip with as many pixels as an image may have is shown."""
  check_each(place, png(1, 170_000_000), megabytes=4000)


def claim(form, at, values, code):
  content = bytearray(saved(form))
  content[at : at + struct.calcsize(code)] = struct.pack(code, *values)
  return bytes(content)


def claiming_jpeg(progressive):
  content = bytearray(saved('JPEG', progressive=progressive))
  at = content.index(b'\xff\xc2' if progressive else b'\xff\xc0') + 5
  content[at : at + 4] = struct.pack('>2H', 65500, 65500)
  return bytes(content)


def claiming_png():
  head = struct.pack('>2I5B', 65500, 65500, 8, 0, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', b'')


def claiming_tiff():
  content = bytearray(saved('TIFF'))
  for tag in (256, 257):  # width and height
    at = content.index(struct.pack('<2H', tag, 4)) + 8
    content[at : at + 4] = struct.pack('<I', 65500)
  return bytes(content)


def claiming_jpeg_2000():
  content = bytearray(saved('JPEG2000'))
  at = content.index(b'ihdr') + 4
  content[at : at + 8] = struct.pack('>2I', 65500, 65500)
  at = content.index(b'\xff\x51') + 6
  content[at : at + 8] = struct.pack('>2I', 65500, 65500)
  return bytes(content)


CLAIMS = {
  'jpeg': lambda: claiming_jpeg(False),
  'progressive jpeg': lambda: claiming_jpeg(True),
  'png': claiming_png,
  'tiff': claiming_tiff,
  'jpeg 2000': claiming_jpeg_2000,
  'bmp': lambda: claim('BMP', 18, (65500, 65500), '<2i'),
  'gif': lambda: claim('GIF', 6, (65500, 65500), '<2H'),
  'ppm': lambda: b'P6\n65500 65500\n255\n' + bytes(99),
  'pgm of 16 bits': lambda: b'P5\n99999999 99999999\n65535\n' + bytes(99),
}


@attack(quick=True, cases=CLAIMS)
def claims_many_pixels(place, make):
  """A header that claims more pixels than allowed is refused."""
  assert all(check_each(place, make()))


@attack(quick=False, cases=('JPEG', 'PNG'))
def has_many_pixels(place, form):
  """An image of 900 million pixels is refused within 2 GB."""
  program = (
    'import io, pathlib, resource, sys\n'
    'from PIL import Image\n'
    'from tests.attacks import images\n'
    'made = io.BytesIO()\n'
    f'Image.new("L", (30000, 30000)).save(made, {form!r})\n'
    'assert all(images.check_each(pathlib.Path(), made.getvalue()))\n'
  )
  children.run([sys.executable, '-c', program], check=True, cwd=place)


@attack(quick=True)
def many_scans(place):
  """A JPEG of thousands of scans, which take minutes, is refused."""
  content = saved('JPEG', np.zeros((800, 800), np.uint8), progressive=True)
  last = content[content.rindex(b'\xff\xda') : -2]
  assert all(check_each(place, content[:-2] + 3000 * last + content[-2:]))


EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n'
OTHERS = {
  'eps': EPS,
  'eps of dos': struct.pack('<7I', 0xC6D3D0C5, 28, len(EPS), 0, 0, 0, 0) + EPS,
  'pdf': b'%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF\n',
  'svg': b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
  'xbm': b'#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0};',
  'wmf': b'\xd7\xcd\xc6\x9a' + bytes(40),
  'emf': struct.pack('<I', 1) + bytes(36) + b' EMF' + bytes(60),
  'html': b'<html><img src="http://127.0.0.1/x.png"></html>',
  'script': b'#!/bin/sh\ntouch harmed\n',
  **{
    form: lambda form=form: saved(form)
    for form in ('ICO', 'PCX', 'TGA', 'SGI', 'DDS', 'PDF', 'EPS')
  },
}


@attack(quick=True, cases=OTHERS)
def another_format(place, content):
  """A format that is not named is refused, and starts no program."""
  for name in ('gs', 'gswin64c', 'gswin32c', 'convert'):
    program = place / name
    program.write_text(f'#!/bin/sh\ntouch {place}/started\n')
    program.chmod(0o755)
  before = os.environ['PATH']
  os.environ['PATH'] = f'{place}{os.pathsep}{before}'
  try:
    content = content() if callable(content) else content
    refused = check_each(place, content)
  finally:
    os.environ['PATH'] = before
  assert not (place / 'started').exists(), 'a program was started'
  assert all(refused)


FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP', 'GIF', 'PPM', 'TIFF', 'AVIF')
FORMATS = (*FORMATS, 'JPEG2000')


def contents(form):
  try:
    return saved(form)
  except (KeyError, OSError):  # this Pillow cannot write it
    return b''


@attack(quick=True, cases=FORMATS)
def cut(place, form):
  """A file that is cut off is shown or refused in a line, wherever the cut."""
  content = contents(form)
  for length in range(0, len(content), max(1, len(content) // 12)):
    check_each(place, content[:length], f'x.{form}')


@attack(quick=True, cases=FORMATS)
def flipped(place, form):
  """A file with wrong bytes is shown or refused in a line."""
  content, rng = contents(form), np.random.default_rng(1)
  for _ in range(15 if content else 0):
    wrong = bytearray(content)
    for _ in range(rng.integers(1, 5)):
      wrong[rng.integers(2, min(len(wrong), 400))] = rng.integers(0, 256)
    check_each(place, bytes(wrong), f'x.{form}', megabytes=2500)


def zeros(count):
  """Returns so many megabytes of zeros, compressed."""
  return zlib.compress(bytes(count * 1_000_000), 1)


CHUNKS = {
  'text': lambda: [(b'zTXt', b'a\0\0' + zeros(100))],
  'international text': lambda: [(b'iTXt', b'a\0\1\0\0\0' + zeros(100))],
  'profile': lambda: [(b'iCCP', b'a\0\0' + zeros(100))],
  'many texts': lambda: 500 * [(b'tEXt', b'a\0' + bytes(2000))],
  'many bombs': lambda: 70 * [(b'zTXt', b'a\0\0' + zeros(1))],
  'exif': lambda: [(b'eXIf', b'MM\0*\0\0\0\x08\xff\xff' + bytes(100_000))],
  'unknown': lambda: [(b'abCd', bytes(1_000_000))],
}


@attack(quick=True, cases=CHUNKS)
def chunks(place, make):
  """What a PNG says beside its pixels takes no memory, and harms no pixel."""
  check_each(place, png(8, 8, before=make()), megabytes=300)


@attack(quick=True, cases={'exif': b'\xff\xe1', 'profile': b'\xff\xe2'})
def segments(place, kind):
  """A JPEG with 8 MB beside its pixels has the pixels that it has without."""
  plain = saved('JPEG')
  full = kind + b'\xff\xff' + bytes(65533)
  path = place / 'x.jpg'
  for read in READERS:
    path.write_bytes(plain)
    wanted = read(path)
    path.write_bytes(plain[:2] + 128 * full + plain[2:])
    np.testing.assert_array_equal(read(path), wanted)


@attack(quick=True)
def film_behind_a_photograph(place):
  """A JPEG with a film behind it is shown: what looks like scans is none."""
  film = np.random.default_rng(0).integers(0, 256, 8_000_000, np.uint8)
  assert not any(check_each(place, saved('JPEG') + film.tobytes(), 'x.jpg'))


@attack(quick=True, cases=('GIF', 'PNG', 'WEBP', 'TIFF'))
def animation(place, form):
  """Of an animation the first image is read."""
  first, second = (Image.new('RGB', (8, 8), c) for c in ('red', 'blue'))
  content = io.BytesIO()
  options = {'lossless': True} if form == 'WEBP' else {}
  first.save(content, form, save_all=True, append_images=[second], **options)
  (place / 'x.gif').write_bytes(content.getvalue())
  for read in READERS:
    assert (read(place / 'x.gif') == (255, 0, 0)).all()


PALETTES = {
  'index': ([(b'PLTE', bytes(6))], b'\0\xff' * 2),
  'transparency': ([(b'PLTE', bytes(6)), (b'tRNS', bytes(300))], bytes(4)),
  'absent': ([], bytes(4)),
  'empty': ([(b'PLTE', b'')], bytes(4)),
  'odd': ([(b'PLTE', bytes(7))], bytes(4)),
  'long': ([(b'PLTE', bytes(3000))], bytes(4)),
}


@attack(quick=True, cases=PALETTES)
def palette(place, made):
  """A palette that is wrong is refused, or its colours are black."""
  before, data = made
  content = png(1, 2, data, colour=3, before=before)
  said = check_each(place, content)
  for read, refused in zip(READERS, said, strict=True):
    assert refused or not read(place / 'x.png').any()


@attack(quick=True, cases=('pipe', 'folder', 'device', 'nothing', 'link'))
def no_file(place, kind):
  """What is no file is refused, and not waited for."""
  path = place / 'x.png'
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'folder':
    path.mkdir()
  elif kind == 'device':
    path.symlink_to('/dev/zero')
  elif kind == 'link':
    path.symlink_to('x.png')
  before = signal.signal(signal.SIGALRM, waited)
  signal.alarm(30)
  try:
    with at_most(600):
      assert refusal(of_predict_py, path)
      with contextlib.suppress(errors.UsageError):
        decode.read(*predict.files(os.fspath(path)))
        pytest.fail('it is shown')
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def waited(*_):
  pytest.fail('it is waited for')

"""Archives of data sets that a user has from a stranger, and gives as CIFAR."""

import functools
import gzip
import io
import pathlib
import pickle
import tarfile
import tempfile
import tracemalloc
import zipfile

import numpy as np

from kd_jax import data
from tests.attacks import attack, told
from tests.data import archives

_DEEP = b'\x80\x02}(' + b')' + b'\x85' * 200_000 + b'K\x01u.'


def opened(name, place, file):
  """Opens a data set from an archive whatever its checksum."""
  return data.open_source(
    name, archive=str(file), any_checksum=True, data_dir=str(place / 'data')
  )


def refused(name, place, file, *words, most=None):
  """Opens an archive, which must be refused in a line and in bounded memory.

  Args:
    name: The data set.
    place: The folder of the attack.
    file: The archive.
    *words: What the line must hold.
    most: The most bytes that may be taken; None counts none.
  """
  if most:
    tracemalloc.start()
  try:
    told.refused(lambda: opened(name, place, file), *words)
    peak = tracemalloc.get_traced_memory()[1] if most else 0
  finally:
    tracemalloc.stop()
  assert peak <= (most or 0), f'{peak / 1e6:.0f} MB were taken'
  assert not list((place / 'data').rglob('*.array_record*'))
  here = {p for p in place.iterdir() if p.name != 'data'}
  assert here == {file}, here


@functools.cache
def small(kind):
  """Returns the content of a small archive: 10, 'pickled' or 'tiny'."""
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, 'a')
    if kind == 'tiny':
      archives.tiny_imagenet(file, per_class=1)
      with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
    archives.cifar(file, 10, per_class=1, pickled=kind == 'pickled')
    with tarfile.open(file) as tar:
      return {m.name: tar.extractfile(m).read() for m in tar}


def packed(file, contents):
  """Writes an archive of contents, or of prepared members, by name."""
  with tarfile.open(file, 'w:gz', compresslevel=1) as tar:
    for name, content in contents.items():
      if isinstance(content, tarfile.TarInfo):
        tar.addfile(content)
        continue
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return file


def special(name, kind, target=''):
  """Returns a member that is no plain file."""
  member = tarfile.TarInfo(name)
  member.type, member.linkname = kind, target
  return member


ROOT = 'cifar-10-batches-bin/'
BATCH = f'{ROOT}data_batch_1.bin'


@attack(
  quick=True,
  cases={
    'link': (tarfile.SYMTYPE, '/etc/passwd'),
    'link within': (tarfile.SYMTYPE, 'data_batch_2.bin'),
    'link up': (tarfile.SYMTYPE, '../../../etc/passwd'),
    'hard link': (tarfile.LNKTYPE, '/etc/passwd'),
    'hard link within': (tarfile.LNKTYPE, f'{ROOT}data_batch_2.bin'),
    'link to itself': (tarfile.SYMTYPE, 'data_batch_1.bin'),
    'device': (tarfile.CHRTYPE, ''),
    'disk': (tarfile.BLKTYPE, ''),
    'fifo': (tarfile.FIFOTYPE, ''),
    'folder': (tarfile.DIRTYPE, ''),
  },
)
def no_plain_file(place, case):
  """A member that should hold images and is something else is refused."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[BATCH] = special(BATCH, *case)
  refused('cifar10', place, packed(file, contents), 'data_batch_1.bin')


@attack(
  quick=True,
  cases=[
    '/tmp/kd_jax_attack/data_batch_1.bin',
    '../data_batch_1.bin',
    'a/../../data_batch_1.bin',
    '../../outside.txt',
    '/etc/cron.d/outside',
  ],
)
def outside(place, case):
  """A name that leads out of the folder is refused, and nothing is written."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[case] = contents.pop(BATCH) if 'batch' in case else b'x'
  refused('cifar10', place, packed(file, contents), 'leads out')


@attack(quick=True)
def twice(place):
  """A member that is there twice is refused."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[f'other/{BATCH}'] = contents[BATCH]
  refused('cifar10', place, packed(file, contents), 'twice')


@attack(
  quick=False, cases={'images': BATCH, 'names': f'{ROOT}batches.meta.txt'}
)
def bomb(place, case):
  """A member over its known size is refused before it is unpacked."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[case] = bytes(600_000_000)
  refused('cifar10', place, packed(file, contents), 'are the most', most=2e8)


@attack(quick=False)
def bomb_of_a_skipped_member(place):
  """Nor is one unpacked that is not needed."""
  file = place / 'a.tar.gz'
  contents = {'readme.html': bytes(600_000_000), **small(10)}
  refused('cifar10', place, packed(file, contents), 'more than', most=2e8)


@attack(quick=True)
def bomb_of_holes(place):
  """A sparse member, of a terabyte in a few bytes, is refused."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  member = tarfile.TarInfo(BATCH)
  member.type = tarfile.GNUTYPE_SPARSE
  header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
  header[386:410] = b'%011o\0%011o\0' % (0, 0)
  header[483:495] = b'\x80' + (10**12).to_bytes(11, 'big')
  header[148:156] = b'        '
  header[148:156] = b'%06o\0 ' % sum(header)
  rest = io.BytesIO()
  del contents[BATCH]
  with tarfile.open(fileobj=rest, mode='w') as tar:
    for name, content in contents.items():
      plain = tarfile.TarInfo(name)
      plain.size = len(content)
      tar.addfile(plain, io.BytesIO(content))
  file.write_bytes(gzip.compress(bytes(header) + rest.getvalue(), 1))
  refused('cifar10', place, file)


@attack(
  quick=True,
  cases={'long name': tarfile.GNUTYPE_LONGNAME, 'pax': tarfile.XHDTYPE},
)
def lying_header(place, case):
  """A header that announces a terabyte takes no terabyte."""
  file = place / 'a.tar.gz'
  member = special('././@LongLink', case)
  member.size = 10**12
  buffer = member.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)
  file.write_bytes(gzip.compress(buffer, 1))
  refused('cifar10', place, file, most=2e8)


@attack(quick=True)
def many_members(place):
  """A long list of members is not read to its end."""
  file = place / 'a.tar.gz'
  contents = {f'{i}': b'' for i in range(3000)}
  refused('cifar10', place, packed(file, contents), 'members')


@attack(
  quick=True,
  cases={
    'undecodable': b'\xff\xfe' * 10,
    'too few': b'cat\ndog\n',
    'too many': b'\n'.join(b'%d' % i for i in range(11)),
    'twice the same': b'\n'.join([b'cat'] * 10),
    'none': b'',
    'too long': b'x' * 100_000,
    'forged': b'\n'.join(b'\x1b[2J%d' % i for i in range(9)),
  },
)
def class_names(place, case):
  """Class names that are no ten texts are refused."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[f'{ROOT}batches.meta.txt'] = case
  refused('cifar10', place, packed(file, contents))


@attack(
  quick=True,
  cases={
    'half a row': lambda rows: rows[:-1],
    'a label that is none': lambda rows: b'\xff' + rows[1:],
    'rows of CIFAR-100': lambda rows: b'\0' + rows,
  },
)
def rows(place, case):
  """Rows that are no images, or of no class, are refused."""
  file = place / 'a.tar.gz'
  contents = dict(small(10))
  contents[BATCH] = case(contents[BATCH])
  refused('cifar10', place, packed(file, contents))


@attack(quick=True, cases=[10, 100])
def few_images(place, case):
  """Few images that pass for CIFAR are said to be other data."""
  file = place / 'a.tar.gz'
  archives.cifar(file, case, per_class=1)
  notes = getattr(opened(f'cifar{case}', place, file), 'notes', ())
  assert any('published with 50000 training' in note for note in notes), notes


class Code:
  """Runs code where it is unpickled."""

  def __reduce__(self):
    return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def laughs():
  """Returns lists of lists that are small, and large as an array."""
  value = [0] * 10
  for _ in range(9):
    value = [value] * 10
  return value


PIXELS = np.zeros((10, 3072), np.uint8)
PICKLES = {
  'code': pickle.dumps(Code()),
  'system': b"cos\nsystem\n(S'touch ran'\ntR.",
  'instance': b"(S'touch ran'\nios\nsystem\n.",
  'object': b"(cos\nsystem\nS'touch ran'\no.",
  'a built-in': b'cbuiltins\nbreakpoint\n(tR.',
  'a method': b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR.",
  'deep': _DEEP,
  'a memo of a terabyte': b'\x80\x02Nr\xff\xff\xff\x7f.',
  'bytes of an exabyte': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x0fabc.',
  'lists in lists': pickle.dumps({b'data': PIXELS, b'labels': laughs()}, 2),
  'images in lists': pickle.dumps({b'data': laughs(), b'labels': [0] * 10}, 2),
  'an array of a terabyte': (
    b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n'
    b"(L1000000000000L\ntS'b'\ntR."
  ),
  'an array of objects': pickle.dumps(
    {b'data': np.array([[None]]), b'labels': [0]}, 2
  ),
  'labels of text': pickle.dumps({b'data': PIXELS, b'labels': 'a' * 10}, 2),
  'fewer labels': pickle.dumps({b'data': PIXELS, b'labels': [0] * 9}, 2),
  'negative labels': pickle.dumps({b'data': PIXELS, b'labels': [-1] * 10}, 2),
  'great labels': pickle.dumps({b'data': PIXELS, b'labels': [10**30] * 10}, 2),
  'no dict': pickle.dumps([1]),
  'cut off': pickle.dumps({b'data': PIXELS, b'labels': [0] * 10}, 2)[:-9],
  'a name that writes': b'c\x1b[2Jos\nsys\x07tem\n(tR.',
  'an attribute': b'cnumpy\ndtype\n}S"__code__"\nNsb.',
}


HUNGRY = ('memo', 'exabyte', 'terabyte', 'in lists')


@attack(
  quick=True,
  cases={
    name: (content, 2e7 if any(word in name for word in HUNGRY) else None)
    for name, content in PICKLES.items()
  },
)
def pickled(place, case):
  """A pickle of CIFAR for Python runs nothing, and takes no memory."""
  file = place / 'a.tar.gz'
  contents = dict(small('pickled'))
  contents['cifar-10-batches-py/data_batch_3'] = case[0]
  refused('cifar10', place, packed(file, contents), most=case[1])


def tiny(file, **changes):
  """Writes a small Tiny-ImageNet with some members changed."""
  contents = dict(small('tiny'))
  for part, change in changes.items():
    (name,) = [n for n in contents if n.endswith(part.replace('__', '.'))][:1]
    contents[name] = change(contents[name])
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as new:
    for name, content in contents.items():
      new.writestr(name, content)


@attack(
  quick=True,
  cases={
    'undecodable names': {'wnids__txt': lambda _: b'\xff' * 9},
    'too few names': {'wnids__txt': lambda text: text[:50]},
    'a class that is none': {
      'val_annotations__txt': lambda text: text.replace(b'\tn', b'\tm', 1)
    },
    'lines without a tab': {'val_annotations__txt': lambda _: b'a\nb\n'},
    'an image outside': {
      'val_annotations__txt': lambda text: b'../../x\tn0\n' + text
    },
    'a bomb of names': {'wnids__txt': lambda _: bytes(60_000_000)},
    'a bomb of an image': {'_0__JPEG': lambda _: bytes(60_000_000)},
  },
)
def tiny_imagenet(place, case):
  """A zip archive that lies is refused in a line."""
  file = place / 'a.zip'
  tiny(file, **case)
  refused('tiny_imagenet', place, file, most=50e6)


@attack(
  quick=True,
  cases={
    'text': b'hello',
    'empty': b'',
    'bytes': bytes(5000),
    'gzip': b'\x1f\x8b',
  },
)
def no_archive(place, case):
  """What is no archive is refused in a line."""
  file = place / 'a'
  for name in ('cifar10', 'tiny_imagenet'):
    file.write_bytes(case)
    refused(name, place, file)


def npy(shape, dtype='|u1', content=b''):
  """Returns an array's file that declares any shape."""
  head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
  head += ' ' * (-(len(head) + 11) % 64) + '\n'
  size = len(head).to_bytes(2, 'little')
  return b'\x93NUMPY\x01\0' + size + head.encode() + content


@attack(
  quick=True,
  cases={
    'a terabyte': npy('(1000000, 1000, 1000)'),
    'an exabyte': npy('(1000000000, 100000, 100000)'),
    'negative': npy('(-4, 8, 8)'),
    'deep': npy('(' * 3000),
    'code': npy("__import__('os').system('touch ran')"),
    'objects': npy('(4, 8, 8)', '|O', pickle.dumps(Code())),
    'no array': b'hello',
  },
)
def arrays(place, case):
  """An npz file whose arrays lie is refused before memory is taken."""
  file = place / 'a.npz'
  labels = np.arange(4)
  with file.open('wb') as out:
    np.savez(
      out, train_labels=labels, test_labels=labels,
      test_images=np.zeros((4, 8, 8), np.uint8),
    )  # fmt: skip
  with zipfile.ZipFile(file, 'a') as archive:
    archive.writestr('train_images.npy', case)
  told.refused(lambda: data.open_source(f'npz:{file}'))
  assert not (pathlib.Path.cwd() / 'ran').exists()

"""Files of weights from a stranger, by path and by URL."""

import hashlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

from ml_collections import ConfigDict
import numpy as np
from safetensors import numpy as safetensors

from kd_jax import config as config_lib
from kd_jax.config import schema
from kd_jax.models.pretrained import contents, states
from kd_jax.training import teacher_path
from tests.attacks import attack, downloads, told
from tests.models import saved

STATE = {
  'fc.weight': np.ones((3, 2), np.float32),
  'fc.bias': np.ones(3, np.float32),
}


def read(file, names=tuple(STATE)):
  """Returns the values of a small network's weights in a file."""
  with contents.opened(file) as content:
    state = states.choose(content, [names])
    with contents.damage(os.fspath(file)):
      return {name: state.weights[name].values() for name in names}


def refused(file, *words, most=None, names=tuple(STATE)):
  """Reads a file, which must be refused in a line and in bounded memory."""
  if most:
    tracemalloc.start()
  try:
    told.refused(lambda: told.in_time(lambda: read(file, names), 30), *words)
    peak = tracemalloc.get_traced_memory()[1] if most else 0
  finally:
    tracemalloc.stop()
  assert peak <= (most or 0), f'{peak / 1e6:.0f} MB were taken'
  assert not os.path.exists('ran')


WEIGHT = ('fc.weight',)


class Code:
  """Runs code where it is unpickled."""

  def __reduce__(self):
    return exec, ("open('ran', 'w').close()",)


def zipped(file, pickled, data=b'', key='0'):
  """Writes a pickle, and numbers beside it, as torch.save does."""
  with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as out:
    out.writestr('archive/data.pkl', pickled)
    out.writestr(f'archive/data/{key}', data)


def stream(pickled):
  """Returns a pickle as files of torch before 1.6 hold it."""
  head = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}]
  parts = [pickle.dumps(value, 2) for value in head]
  return b''.join([*parts, pickled, pickle.dumps([], 2)])


DEEP = b'\x80\x02}(' + b')' + b'\x85' * 1_000_000 + b'K\x01u.'
PICKLES = {
  'code': pickle.dumps({'fc.weight': Code()}, 2),
  'system': b"cos\nsystem\n(S'touch ran'\ntR.",
  'instance': b"(S'touch ran'\nios\nsystem\n.",
  'object': b"(cos\nsystem\nS'touch ran'\no.",
  'an object without arguments': b'\x80\x02cpty\nspawn\n(S"touch ran"\nt\x81.',
  'a built-in': b"\x80\x02cbuiltins\neval\n(S\"open('ran', 'w')\"\ntR.",
  'a module of its own': b'\x80\x02ctorch._utils\n__builtins__\n(tR.',
  'an attribute': b'\x80\x04\x8c\x02os\x8c\x04path\x93.',
  'a dotted name': b'\x80\x04\x8c\x05torch\x8c\x0eserialization.os\x93.',
  'deep tuples as a key': DEEP,
  'deep lists': b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.',
  'a memo of a terabyte': b'\x80\x02Nr\xff\xff\xff\x7f.',
  'bytes of an exabyte': b'\x80\x04\x8e' + b'\xff' * 7 + b'\x0fabc.',
  'a frame of an exabyte': b'\x80\x04\x95' + b'\xff' * 7 + b'\x0fabc.',
  'nothing': b'',
  'only a mark': b'\x80\x02(',
  'an extension': b'\x80\x02\x82\x01.',
  'an unknown code': b'\x80\x02\xff.',
  'a builder that is changed': (
    b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}S"__call__"\nNsb.'
  ),
  'a storage of no kind': b'\x80\x02(K\x01K\x02K\x03tQ.',
}


@attack(quick=True, cases=PICKLES)
def pickled(place, case):
  """A pickle runs nothing, and ends no process."""
  file = place / 'a.pth'
  zipped(file, case)
  refused(file)
  file.write_bytes(stream(case))
  refused(file)


@attack(quick=True)
def code_beside_weights(place):
  """Code beside weights is left, and the weights are taken."""
  file = place / 'a.pth'
  saved.save({**saved.tensors(STATE), 'epoch': Code()}, file)
  for name, value in read(file).items():
    np.testing.assert_array_equal(value, STATE[name])
  assert not os.path.exists('ran')


def itself():
  """Returns a dict that holds itself under many names."""
  content = {}
  content.update({f'k{i}': content for i in range(100)})
  return content


@attack(quick=True)
def endless_names(place):
  """A dict that holds itself many times is not followed without end."""
  file = place / 'a.pth'
  zipped(file, pickle.dumps(itself(), 2))
  refused(file, 'entries')


def tensor(length=6, offset=0, size=(3, 2), stride=(2, 1), kind='FloatStorage'):
  """Returns the pickle of a state dict whose tensor is so declared."""
  pieces = [
    b'\x80\x02}X\x09\0\0\0fc.weightctorch._utils\n_rebuild_tensor_v2\n((',
    b'X\x07\0\0\0storagectorch\n%s\nX\x01\0\0\x000X\x03\0\0\0cpu'
    % kind.encode(),
    b'L%dL\ntQL%dL\n' % (length, offset),
    b'(' + b''.join(b'L%dL\n' % n for n in size) + b't',
    b'(' + b''.join(b'L%dL\n' % n for n in stride) + b't',
    b'\x89}tRs.',
  ]
  return b''.join(pieces)


@attack(
  quick=True,
  cases={
    'beyond its numbers': {'offset': 1},
    'far beyond': {'offset': 10**18},
    'before them': {'offset': -1},
    'steps beyond': {'stride': (10**9, 1)},
    'steps back': {'stride': (-2, 1)},
    'a negative shape': {'size': (-3, 2)},
    'a giant shape': {'size': (10**9, 10**9), 'stride': (0, 0)},
    'a shape of 2^80': {'size': (2**40, 2**40), 'stride': (2**40, 1)},
    'fewer steps': {'stride': (1,)},
    'a giant storage': {'length': 10**15, 'size': (10**9,), 'stride': (1,)},
    'a kind that is none': {'kind': 'EvilStorage'},
  },
)
def shape(place, case):
  """A tensor that its numbers cannot fill is refused."""
  file = place / 'a.pth'
  weight = STATE['fc.weight']
  zipped(file, tensor(), weight.tobytes())
  np.testing.assert_array_equal(read(file, WEIGHT)['fc.weight'], weight)
  zipped(file, tensor(**case), weight.tobytes())
  refused(file, most=1e8, names=WEIGHT)


@attack(quick=False, cases=['numbers', 'names'])
def bomb(place, case):
  """A small file that unpacks to much is not unpacked."""
  file = place / 'a.pth'
  if case == 'numbers':
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as out:
      out.writestr('a/data.pkl', tensor(offset=7, size=(1,), stride=(1,)))
      out.writestr('a/data/0', bytes(600_000_000))
  else:
    zipped(file, b'\x80\x02' + b'N0' * 200_000_000 + b'N.')
  assert file.stat().st_size < 2e7
  refused(file, most=1.5e8, names=WEIGHT)


def header(entries, data=b'', length=None):
  """Returns a file of safetensors with any header."""
  text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return (
    struct.pack('<Q', len(text) if length is None else length) + text + data
  )


def entry(start=0, end=24, shape=(3, 2), dtype='F32'):
  """Returns the header's entry of an array."""
  return {'dtype': dtype, 'shape': shape, 'data_offsets': [start, end]}


DATA = STATE['fc.weight'].tobytes()
HEADERS = {
  'a length of an exabyte': header({}, length=2**60),
  'a length beyond the file': header(
    {'fc.weight': entry()}, DATA, length=10**6
  ),
  'offsets beyond': header({'fc.weight': entry(0, 10**12)}, DATA),
  'offsets backwards': header({'fc.weight': entry(24, 0)}, DATA),
  'offsets that overlap': header({'fc.weight': entry(), 'b': entry()}, DATA),
  'a hole': header({'fc.weight': entry(8, 32)}, DATA + bytes(8)),
  'bytes behind': header({'fc.weight': entry()}, DATA + bytes(99)),
  'a giant shape': header({'fc.weight': entry(shape=[10**9, 10**9])}, DATA),
  'a shape of 2^64': header({'fc.weight': entry(shape=[2**32, 2**32])}, DATA),
  'a negative shape': header({'fc.weight': entry(shape=[-3, -2])}, DATA),
  'a shape of fractions': header({'fc.weight': entry(shape=[1.5, 4])}, DATA),
  'another dtype': header({'fc.weight': entry(dtype='X99')}, DATA),
  'no dtype': header(
    {'fc.weight': {'shape': [1], 'data_offsets': [0, 4]}}, DATA
  ),
  'no object': header(b'{"a": 1}', DATA),
  'deep': header(b'{"a":' * 9000 + b'1' + b'}' * 9000),
  'no UTF-8': header(b'{"\xff\xfe": 1}'),
  'a half of a pair': header(b'{"\\ud800": 1}'),
  'cut off in the header': header({'fc.weight': entry()}, DATA)[:30],
  'cut off in the numbers': header({'fc.weight': entry()}, DATA)[:-4],
  'nothing else': header(b'{'),
}


@attack(quick=True, cases=HEADERS)
def safetensors_header(place, case):
  """A header that lies is refused, and takes no memory."""
  file = place / 'a.safetensors'
  file.write_bytes(header({'fc.weight': entry()}, DATA))
  assert read(file, WEIGHT)['fc.weight'].shape == (3, 2)
  file.write_bytes(case)
  refused(file, most=5e7, names=WEIGHT)


@attack(quick=True, cases=[1, 8, 9, 50, 100, 200])
def cut_off(place, case):
  """A file that is cut off is refused."""
  whole, file = io.BytesIO(), place / 'a.pth'
  whole.write(safetensors.save(STATE))
  file.write_bytes(whole.getvalue()[:-case])
  refused(file)
  saved.save(saved.tensors(STATE), file)
  file.write_bytes(file.read_bytes()[:-case])
  refused(file)


@attack(quick=True, cases={'a fifo': os.mkfifo, 'a folder': os.mkdir})
def no_file(place, case):
  """What is no file is not waited for."""
  file = place / 'a.pth'
  case(file)
  refused(file)


def config(path, digits, place):
  """Returns the part of a configuration that names a file of weights."""
  teacher = {'path': path, 'sha256': digits, 'key': ''}
  return ConfigDict({'teacher': teacher, 'cache_dir': str(place / 'cache')})


def served():
  """Returns a server of a file of weights, and the file."""
  body = safetensors.save(STATE)
  head = f'HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n'
  return downloads.Server(downloads.text(head, body)), body


@attack(quick=True, cases=[8, 9, 16, 32, 63])
def few_digits(place, case):
  """Some digits of a SHA-256 are no name of a file by URL; all are said."""
  server, body = served()
  digest = hashlib.sha256(body).hexdigest()
  with server:
    url = server.url.replace('file.pth', f'resnet18-{digest[:8]}.pth')
    made = config(url, digest[:case], place)
    told.refused(lambda: teacher_path.file(made), '64', digest)


@attack(quick=True)
def digits_in_a_name(place):
  """The digits in a file's name are none that its user gave."""
  server, body = served()
  digits = hashlib.sha256(body).hexdigest()[:8]
  with server:
    url = server.url.replace('file.pth', f'resnet18-{digits}.pth')
    made = config(url, '', place)
    told.refused(lambda: teacher_path.file(made))


@attack(quick=True)
def all_digits(place):
  """With all digits the file is taken, and its other versions are not."""
  server, body = served()
  with server:
    digest = hashlib.sha256(body).hexdigest()
    file = teacher_path.file(config(server.url, digest, place))
    assert file.read_bytes() == body
    wrong = digest[:63] + ('0' if digest[63] != '0' else '1')
    made = config(server.url, wrong, place)
    told.refused(lambda: teacher_path.file(made))


@attack(
  quick=True,
  cases=[
    'ftp://127.0.0.1:1/a.pth',
    'file:///etc/a.pth',
    's3://bucket/a.pth',
    'memory://a.pth',
    'github://a:b@c/a.pth',
    'zip://a.pth::/tmp/x.zip',
    'https:///a.pth',
    'https://127.0.0.1:99999/a.pth',
  ],
)
def scheme(place, case):
  """Weights come by http, by https or from a disk."""
  made = config(case, '0' * 64, place)
  told.refused(lambda: teacher_path.file(made), 'http')


@attack(
  quick=True,
  cases=[
    'https://me:hunter2@h/x.pth',
    'https://hunter2@h/x.pth',
    'https://h/x.pth?token=hunter2',
    'https://h/x.pth?X-Amz-Date=1&X-Amz-Signature=hunter2',
    'https://h/x.pth?sv=1&sig=hunter2',
    'https://h/x.pth#hunter2',
    'HTTPS://h/x.pth?hunter2',
  ],
)
def token(place, case):
  """A token in a URL is in no file of a run, and not in what a run is."""
  made = ConfigDict(schema.default())
  made.teacher.path = case
  values = config_lib.plain(made)
  assert 'hunter2' not in json.dumps(values), values['teacher']['path']
  plain = ConfigDict(schema.default())
  plain.teacher.path = values['teacher']['path']
  assert config_lib.digest(made) == config_lib.digest(plain)
  made = config(case, 'no digits', place)
  assert 'hunter2' not in told.refused(lambda: teacher_path.file(made))

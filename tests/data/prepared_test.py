import http.server
import io
import pathlib
import subprocess
import sys
import tarfile
import threading

from etils import epath
import numpy as np
from PIL import Image
import pytest

from kd_jax import data, errors
from kd_jax.data.sets import archive, builders, pickles, prepared
from tests import children
from tests.data import archives

ROOT = pathlib.Path(__file__).parent.parent.parent


def opened(name, tmp_path, file, **more):
  options = {'data_dir': str(tmp_path / 'data'), 'any_checksum': True, **more}
  return data.open_source(name, archive=str(file), **options)


def by_content(images, labels):
  pairs = zip(images, labels, strict=True)
  return sorted((image.tobytes(), int(label)) for image, label in pairs)


@pytest.mark.parametrize(
  ('classes', 'pickled'), [(10, False), (100, False), (10, True), (100, True)]
)
def test_cifar_comes_out_byte_for_byte(tmp_path, classes, pickled):
  file = tmp_path / 'cifar.tar.gz'
  want = archives.cifar(file, classes, pickled=pickled)
  source = opened(f'cifar{classes}', tmp_path, file)
  assert source.info.num_train == len(want['train'][1])
  assert source.info.class_names[7] == 'class007'
  for split in ('train', 'test'):
    got = source.arrays(split)
    assert by_content(got.image, got.labels) == by_content(*want[split])


def test_tiny_imagenet_keeps_its_jpeg_files(tmp_path):
  file = tmp_path / 'tiny.zip'
  wnids, files = archives.tiny_imagenet(file)
  source = opened('tiny_imagenet', tmp_path, file)
  assert source.info.class_names == tuple(wnids)
  assert (source.info.num_train, source.info.num_test) == (400, 200)
  got = source.arrays('train')
  pixels = {
    np.asarray(Image.open(io.BytesIO(content)).convert('RGB')).tobytes(): name
    for name, content in files.items()
  }
  for image, label in zip(got.image, got.labels, strict=True):
    assert f'/{wnids[label]}/' in pixels[image.tobytes()]


def test_a_prepared_data_set_needs_no_archive(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10)
  opened('cifar10', tmp_path, file)
  file.unlink()
  data.open_source.cache_clear()
  again = data.open_source('cifar10', data_dir=str(tmp_path / 'data'))
  assert again.info.num_test == 30


def test_preparing_and_reading_imports_no_tensorflow(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10)
  code = (
    'import sys; from kd_jax import data; s = data.open_source("cifar10", '
    f'data_dir={str(tmp_path / "data")!r}, archive={str(file)!r}, '
    'any_checksum=True); s.arrays("test"); '
    'assert "tensorflow" not in sys.modules'
  )
  done = children.run([sys.executable, '-c', code], cwd=ROOT)
  assert done.returncode == 0, done.stderr


def test_two_processes_may_prepare_the_same_data_set(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  want = archives.cifar(file, 10)
  code = (
    'from kd_jax import data; s = data.open_source("cifar10", '
    f'data_dir={str(tmp_path / "data")!r}, archive={str(file)!r}, '
    'any_checksum=True); print(len(s.arrays("train")))'
  )
  command, pipe = [sys.executable, '-c', code], subprocess.PIPE
  with (
    children.Child(command, cwd=ROOT, stdout=pipe) as first,
    children.Child(command, cwd=ROOT, stdout=pipe) as second,
  ):
    outputs = [process.communicate()[0] for process in (first, second)]
  assert (first.returncode, second.returncode) == (0, 0)
  assert all(int(out.split()[-1]) == len(want['train'][1]) for out in outputs)
  assert sum('preparing' in out for out in outputs) == 1


def test_what_an_interrupted_preparation_left_is_not_taken(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10)
  left = tmp_path / 'data/cifar10/incomplete.ABC_3.0.2'
  left.mkdir(parents=True)
  (left / 'dataset_info.json').write_text('{}')
  source = opened('cifar10', tmp_path, file)
  assert source.info.num_train == 150
  assert not left.exists()


@pytest.mark.parametrize('keep', [0.5, 0.99])
def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, keep):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10)
  content = file.read_bytes()
  file.write_bytes(content[: int(len(content) * keep)])
  with pytest.raises(errors.UsageError, match='not a complete archive'):
    opened('cifar10', tmp_path, file)
  assert prepared.find('cifar10', epath.Path(tmp_path / 'data')) is None


def test_an_archive_for_python_is_known_by_its_size_and_checksum(
  tmp_path, monkeypatch
):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10, pickled=True)
  also = (archives.published(file),)
  monkeypatch.setattr(builders.Cifar10, 'ALSO', also)
  assert opened('cifar10', tmp_path, file, any_checksum=False).info.num_test
  for builder in (builders.Cifar10, builders.Cifar100):
    assert builder.ALSO[0].size


def test_an_array_as_python_2_pickled_it_is_read():
  content = (
    b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85'
    b'U\x01b\x87R(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R('
    b'K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftb.'
  )
  want = np.frombuffer(b'abcdef', np.uint8).reshape(2, 3)
  np.testing.assert_array_equal(pickles.load(content), want)


def test_a_pickle_that_asks_for_more_than_arrays_is_not_run(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10, pickled=True)
  content = b"cposix\nsystem\n(S'touch ran'\ntR."
  with tarfile.open(file) as tar:
    members = {m.name: tar.extractfile(m).read() for m in tar}
  members['cifar-10-batches-py/data_batch_3'] = content
  with tarfile.open(file, 'w:gz') as tar:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  with pytest.raises(
    errors.UsageError, match=r'not a complete .* it asks for posix\.system'
  ):
    opened('cifar10', tmp_path, file)


def test_another_archive_says_what_it_lacks(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 100, pickled=True)
  with pytest.raises(errors.UsageError, match=r'it lacks batches\.meta\.txt'):
    opened('cifar10', tmp_path, file)


def test_an_archive_with_another_checksum_needs_the_users_word(tmp_path):
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10)
  with pytest.raises(
    errors.UsageError, match=r'archive=\.\.\. with any_checksum=True'
  ):
    opened('cifar10', tmp_path, file, any_checksum=False)


def test_an_archive_that_is_not_there_is_named(tmp_path):
  with pytest.raises(errors.UsageError, match=r'^archive=.*nowhere.*cifar-10'):
    opened('cifar10', tmp_path, tmp_path / 'nowhere')


def test_an_unknown_data_set_names_the_nearest(tmp_path):
  with pytest.raises(errors.UsageError, match="did you mean 'cifar100'"):
    data.open_source('cifar-100', data_dir=str(tmp_path))
  with pytest.raises(errors.UsageError, match="set 'xyz'; there are digits, "):
    data.open_source('xyz', data_dir=str(tmp_path))


def test_classes_and_size_are_known_before_the_data_is_there():
  assert data.facts('cifar100') == (100, 32)
  assert data.facts('tiny_imagenet') == (200, 64)
  for name, builder in builders.BUILDERS.items():
    assert name in prepared.NORMALISATION
    assert builder.PUBLISHED.url.endswith(('.tar.gz', '.zip'))


class Server(http.server.BaseHTTPRequestHandler):
  """Serves `content`, breaking off after `limit` bytes of each answer."""

  content = b''
  limit = 10**9
  ranges = True

  def do_GET(self):
    asked = self.headers.get('Range', '')
    start = int(asked.removeprefix('bytes=').rstrip('-')) if asked else 0
    start = start if self.ranges else 0
    body = self.content[start:]
    self.send_response(206 if asked and self.ranges else 200)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body[: self.limit])

  def log_message(self, *_):
    pass


@pytest.fixture
def served():
  """Starts a server on this machine; gives (handler class, url)."""

  class Handler(Server):
    pass

  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  yield Handler, f'http://127.0.0.1:{server.server_port}/file.tar.gz'
  server.shutdown()
  thread.join()
  server.server_close()


@pytest.mark.parametrize('ranges', [True, False])
def test_a_download_that_breaks_off_goes_on(tmp_path, served, ranges):
  handler, url = served
  source = tmp_path / 'source'
  source.write_bytes(np.random.default_rng(0).bytes(3_000_000))
  handler.content, handler.ranges = source.read_bytes(), ranges
  handler.limit = 2_000_000 if ranges else 10**9
  target = epath.Path(tmp_path / 'downloads')
  target.mkdir()
  wanted = archives.published(source, url)
  (target / 'file.tar.gz.part').write_bytes(handler.content[:500_000])
  found = archive.obtain(wanted, target, say=lambda _: None)
  assert found.read_bytes() == handler.content
  assert [p.name for p in target.iterdir()] == ['file.tar.gz']


def test_a_wrong_download_is_refused_and_removed(tmp_path, served):
  handler, url = served
  source = tmp_path / 'source'
  source.write_bytes(b'x' * 1000)
  handler.content = b'y' * 1000
  target = epath.Path(tmp_path / 'downloads')
  with pytest.raises(errors.UsageError, match='truncated or another file'):
    archive.obtain(archives.published(source, url), target, say=lambda _: None)
  assert list(target.iterdir()) == []


def test_without_a_network_it_says_what_to_put_where(tmp_path):
  source = tmp_path / 'source'
  source.write_bytes(b'x')
  wanted = archives.published(source, 'http://127.0.0.1:9/cifar.tar.gz')
  with pytest.raises(errors.UsageError) as caught:
    archive.obtain(wanted, epath.Path(tmp_path / 'd'), say=lambda _: None)
  message = str(caught.value)
  for part in (wanted.url, wanted.checksum, str(tmp_path / 'd'), 'archive'):
    assert part in message

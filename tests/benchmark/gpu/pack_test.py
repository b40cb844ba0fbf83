"""Packing, unpacking and the chunks of a tar, without installing packages."""

import sys
import tarfile

import numpy as np
import pytest

from kd_jax import errors
from tests import children
from tests.benchmark.gpu.scripts import script


def archive(path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (7, 6, 5, 3), np.uint8)
  images[0], images[1] = 0, 255
  arrays = {
    'train_images': images,
    'train_labels': np.arange(7, dtype=np.int32),
    'class_names': np.array(['a', 'bcd']),
    'scale': np.array(0.5, np.float32),
    'none': np.zeros((0, 4), np.int64),
  }
  np.savez(path, **arrays)
  return arrays


def parcels(folder, blocks=200):
  """Two parcels with the data set of `archive`, and its arrays."""
  made = folder / 'made'
  made.mkdir()
  arrays = archive(folder / 'given.npz')
  files = script('coded').write(folder / 'given.npz', made, blocks)
  half = len(files) // 2
  for name, own in (('one', files[:half]), ('two', files[half:])):
    (folder / name).mkdir()
    for path in own:
      path.rename(folder / name / path.name)
    script('chunks').write_sums(folder / name, [path.name for path in own])
  return arrays, [str(folder / 'one'), str(folder / 'two')]


def test_a_data_set_comes_out_of_its_parcels_as_it_went_in(tmp_path):
  arrays, given = parcels(tmp_path)
  assert len(list(tmp_path.glob('*/train_images.*'))) > 1
  assert script('unpack').main([str(tmp_path / 'out.npz'), *given]) == 0
  with np.load(tmp_path / 'out.npz') as found:
    assert set(found.files) == set(arrays)
    for name, array in arrays.items():
      assert found[name].dtype == array.dtype
      np.testing.assert_array_equal(found[name], array)


def test_smooth_images_are_coded_in_less_than_their_size():
  y, x = np.mgrid[:32, :32]
  plane = (4 * y + 3 * x).astype(np.uint8)
  images = np.stack([plane, plane + 9, plane + 30], -1)[None]
  assert len(script('coded').encode(images)) < images.nbytes / 4


def test_a_parcel_that_is_not_named_is_asked_for(tmp_path, capsys):
  _, given = parcels(tmp_path)
  assert script('unpack').main([str(tmp_path / 'out.npz'), given[0]]) == 2
  assert 'is in none of these parcels' in capsys.readouterr().err


def test_a_changed_byte_of_a_parcel_is_noticed(tmp_path, capsys):
  _, given = parcels(tmp_path)
  path = next(tmp_path.glob('*/train_images.00.z'))
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  assert script('unpack').main([str(tmp_path / 'out.npz'), *given]) == 2
  assert f'{path} does not have the SHA-256' in capsys.readouterr().err
  assert not (tmp_path / 'out.npz').exists()


def sized(folder, *sizes):
  paths = [folder / f'file{number}' for number in range(len(sizes))]
  for path, size in zip(paths, sizes, strict=True):
    path.write_bytes(bytes(size))
  return paths


def test_no_parcel_is_larger_than_the_limit(tmp_path):
  pack = script('pack')
  files = sized(tmp_path, 50_000, 60_000, 30_000, 20_000, 100_000)
  most = 100_000 + pack._SUMS
  found = pack.distribute(files, most)
  assert [[p.name[-1] for p in each] for each in found] == [
    ['0', '2', '3'], ['1'], ['4']
  ]  # fmt: skip


def test_a_file_over_a_parcels_limit_is_refused_in_one_line(tmp_path):
  pack = script('pack')
  with pytest.raises(errors.UsageError, match=r'file0 takes 2\.0 MiB') as info:
    pack.distribute(sized(tmp_path, 2 * pack.MIB), pack.MIB)
  assert '--max_mb' in str(info.value)
  assert '\n' not in str(info.value)


def not_archives(folder):
  """Files that are no .npz of arrays, each in another way."""
  np.save(folder / 'single.npy', np.arange(3))
  (folder / 'empty.npz').write_bytes(b'')
  np.savez_compressed(folder / 'whole.npz', a=np.arange(1000))
  whole = (folder / 'whole.npz').read_bytes()
  (folder / 'cut.npz').write_bytes(whole[:500])
  changed = bytearray(whole)
  changed[200:220] = bytes(20)
  (folder / 'changed.npz').write_bytes(changed)
  names = ('single.npy', 'empty.npz', 'cut.npz', 'changed.npz', 'none.npz')
  return [folder / name for name in names]


def test_data_that_cannot_be_read_is_refused_before_packages_are_installed(
  tmp_path, monkeypatch, capsys
):
  pack = script('pack')
  monkeypatch.setattr(pack, '_site', lambda *_: pytest.fail('too late'))
  given = [str(tmp_path / 'out'), f'--python={sys.executable}']
  for path in not_archives(tmp_path):
    assert pack.main([*given, f'--data={path}']) == 2
    said = capsys.readouterr().err
    assert f'{path} cannot be read' in said
    assert said.count('\n') == 1


@pytest.mark.parametrize(
  ('name', 'arguments', 'said'),
  [
    ('pack', ['out', '--max_mb=0'], '--max_mb=0 is too little'),
    ('pack', ['out', '--max_mb=x'], 'see pack.py --help'),
    ('unpack', ['out.npz'], 'see unpack.py --help'),
  ],
)
def test_a_wrong_option_of_the_packing_is_refused_in_one_line(
  name, arguments, said, capsys
):
  assert script(name).main(arguments) == 2
  found = capsys.readouterr().err
  assert said in found
  assert found.count('\n') == 1


def test_the_checkout_is_packed_as_it_is_committed(
  tmp_path, monkeypatch, capsys
):
  pack, place = script('pack'), tmp_path / 'project'
  place.mkdir()
  monkeypatch.setattr(pack, 'ROOT', place)
  git = ['git', '-C', str(place), '-c', 'user.name=a', '-c', 'user.email=b@c.d']
  (place / 'code.py').write_text('old')
  for command in (['init', '-q'], ['add', '.'], ['commit', '-qm', 'first']):
    children.run([*git, *command], check=True)
  (place / 'code.py').write_text('new')
  with tarfile.open(pack._checkout(tmp_path)) as tar:
    tar.extractall(tmp_path / 'out', filter='data')
  assert (tmp_path / 'out' / 'code.py').read_text() == 'old'
  assert len((tmp_path / 'out' / 'COMMIT').read_text().strip()) == 40
  assert 'not committed' in capsys.readouterr().out


def installed(site, name, files):
  facts = site / f'{name}-1.0.dist-info'
  facts.mkdir(parents=True)
  for path in files:
    (site / path).parent.mkdir(parents=True, exist_ok=True)
    (site / path).write_text('')
  record = f'{facts.name}/RECORD'
  lines = [f'{each},,' for each in (*files, f'../bin/{name}', record)]
  (facts / 'RECORD').write_text('\n'.join(lines))


def test_packages_that_the_machine_has_are_not_packed(tmp_path):
  pack = script('pack')
  site = tmp_path / 'site'
  installed(site, 'numpy', ['numpy/__init__.py'])
  installed(
    site, 'ml_collections', ['ml_collections/a.py', 'ml_collections/a_test.py']
  )
  packed = pack.write_site(site, tmp_path / 'site.tar.xz', {'numpy'})
  assert packed == ['ml-collections-1.0']
  with tarfile.open(tmp_path / 'site.tar.xz') as tar:
    files = [info.name for info in tar if info.isfile()]
  assert files == ['ml_collections/a.py', 'ml_collections-1.0.dist-info/RECORD']


def tree(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def test_a_folder_comes_back_from_chunks_of_a_limited_size(tmp_path):
  chunks = script('chunks')
  source = tmp_path / 'source'
  (source / 'run').mkdir(parents=True)
  (source / 'run' / 'a').write_bytes(bytes(range(256)) * 100)
  (source / 'b').write_bytes(b'b')
  found = {'run': source / 'run', 'b': source / 'b'}
  names = chunks.write_tar(tmp_path / 'kept', 'one', found, 9_000)
  assert len(names) > 2
  sizes = [(tmp_path / 'kept' / name).stat().st_size for name in names]
  assert max(sizes) <= 9_000
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert tree(tmp_path / 'back') == tree(source)


def test_more_than_a_hundred_chunks_come_back_in_their_order(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(bytes(range(256)) * 80)
  names = chunks.write_tar(tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 200)
  assert len(names) > 101
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert tree(tmp_path / 'back')['a'] == (tmp_path / 'a').read_bytes()


def test_new_chunks_take_the_place_of_the_older_ones(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(b'1' * 20_000)
  chunks.write_tar(tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 9_000)
  (tmp_path / 'a').write_bytes(b'2')
  names = chunks.write_tar(
    tmp_path / 'kept', 'two', {'a': tmp_path / 'a'}, 20_000
  )
  assert set(tree(tmp_path / 'kept')) == {*names, chunks.SUMS}
  chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')
  assert (tmp_path / 'back' / 'a').read_bytes() == b'2'


def test_a_lost_chunk_is_noticed(tmp_path):
  chunks = script('chunks')
  (tmp_path / 'a').write_bytes(bytes(20_000))
  names = chunks.write_tar(
    tmp_path / 'kept', 'one', {'a': tmp_path / 'a'}, 9_000
  )
  (tmp_path / 'kept' / names[1]).unlink()
  with pytest.raises(errors.UsageError, match=f'{names[1]} is missing'):
    chunks.read_tar(tmp_path / 'kept', tmp_path / 'back')

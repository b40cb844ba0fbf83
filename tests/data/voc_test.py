"""Real JPEG, PNG and .mat files in VOC's and SBD's layouts."""

import json

import numpy as np
from PIL import Image
import pytest
import scipy.io

from kd_jax import config as config_lib
from kd_jax import data, errors
from kd_jax.cli import evaluate
from kd_jax.data import augment_masks, stream
from kd_jax.data.sets import voc
from kd_jax.export import artifact
from kd_jax.runtime import run_dir, sharding
from kd_jax.training import measure, run

TRAIN, VAL = ('2007_1', '2007_2'), ('2007_3', '2007_4')
MORE = ('2008_5', '2008_6')


def picture(seed, height=40, width=52):
  """An image of a bright box on a dark ground, and its mask with a void rim."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
  mask = np.zeros((height, width), np.uint8)
  y, x = rng.integers(4, 14, 2)
  mask[y - 2 : y + 18, x - 2 : x + 18] = 255
  mask[y : y + 16, x : x + 16] = 1 + seed % 20
  image[mask == 1 + seed % 20] = 230
  return image, mask


def indexed(mask):
  """A palette picture whose indices are the labels, as VOC's."""
  image = Image.fromarray(mask, 'P')
  image.putpalette(np.arange(768) % 251)
  return image


def save_jpeg(path, image):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path, quality=95)


def save_mask(path, mask):
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.png':
    indexed(mask).save(path)
    return
  kind = [('Segmentation', 'O'), ('CategoriesPresent', 'O')]
  truth = np.array([[(mask, np.uint8([[1]]))]], kind)
  scipy.io.savemat(path, {'GTcls': truth}, do_compression=True)


def write_list(path, names):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(names) + '\n')


@pytest.fixture
def root(tmp_path):
  """VOC alone: two images to train on, two of val."""
  base = tmp_path / 'VOCdevkit/VOC2012'
  for seed, name in enumerate((*TRAIN, *VAL)):
    image, mask = picture(seed)
    save_jpeg(base / f'JPEGImages/{name}.jpg', image)
    save_mask(base / f'SegmentationClass/{name}.png', mask)
  write_list(base / 'ImageSets/Segmentation/train.txt', TRAIN)
  write_list(base / 'ImageSets/Segmentation/val.txt', VAL)
  return tmp_path


def add_sbd(root):
  """SBD in its own layout, with images of VOC's train and val among its own."""
  base = root / 'benchmark_RELEASE/dataset'
  for name in (TRAIN[0], VAL[0], *MORE):
    image, mask = picture(10 + int(name[-1]))
    save_jpeg(base / f'img/{name}.jpg', image)
    save_mask(base / f'cls/{name}.mat', np.where(mask == 255, 0, mask))
  write_list(base / 'train.txt', (TRAIN[0], MORE[0], VAL[0]))
  write_list(base / 'val.txt', (MORE[1], MORE[0]))


def add_aug(root):
  """The same masks as grey PNG files beside VOC's, with their list."""
  base = root / 'VOCdevkit/VOC2012'
  for name in (*TRAIN, *MORE):
    image, mask = picture(10 + int(name[-1]))
    if name in MORE:
      save_jpeg(base / f'JPEGImages/{name}.jpg', image)
    path = base / f'SegmentationClassAug/{name}.png'
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.where(mask == 255, 0, mask)).save(path)
  names = (*TRAIN, *MORE, VAL[1])
  write_list(base / 'ImageSets/Segmentation/trainaug.txt', names)


def opened(root, **more):
  return data.open_source.__wrapped__(f'voc:{root}', image_size=32, **more)


def names_of(files):
  return [pair.image.stem for pair in files.pairs]


def test_voc_alone_is_read_as_it_lies_there(root):
  found = opened(root)
  info = found.info
  assert (info.task, len(info.class_names)) == ('segmentation', 21)
  assert (info.num_train, info.num_val, info.num_test) == (2, 0, 2)
  assert names_of(found.split('test')) == list(VAL)
  image, target = found.split('train').read(1)
  want_image, want_mask = picture(1)
  np.testing.assert_array_equal(target['label'], want_mask)
  assert image.shape == want_image.shape
  assert np.abs(image.astype(int) - want_image).mean() < 12
  assert any('1464 training and 1449' in note for note in found.notes)


@pytest.mark.parametrize('add', [add_sbd, add_aug])
def test_sbd_adds_each_image_once_and_none_of_val(root, add):
  add(root)
  found = opened(root)
  train = found.split('train')
  assert names_of(train) == [*TRAIN, *MORE]
  for i, name in enumerate((*TRAIN, *MORE)):
    _, target = train.read(i)
    own = picture(i)[1]
    _, other = picture(10 + int(name[-1]))
    want = own if name in TRAIN else np.where(other == 255, 0, other)
    np.testing.assert_array_equal(target['label'], want)
  assert any('10582 training' in note for note in found.notes)


def test_the_fingerprint_is_of_contents_and_of_splits(root):
  was = opened(root).info.fingerprint
  assert opened(root).info.fingerprint == was
  lists = root / 'VOCdevkit/VOC2012/ImageSets/Segmentation'
  write_list(lists / 'train.txt', (*TRAIN, MORE[0]))
  masks = root / 'VOCdevkit/VOC2012/SegmentationClass'
  save_jpeg(masks.parent / f'JPEGImages/{MORE[0]}.jpg', picture(8)[0])
  save_mask(masks / f'{MORE[0]}.png', picture(8)[1])
  longer = opened(root).info.fingerprint
  save_mask(masks / f'{MORE[0]}.png', picture(9)[1])
  assert len({was, longer, opened(root).info.fingerprint}) == 3


def _no_mask(path):
  path.unlink()


def _colours(path):
  indexed(picture(0)[1]).convert('RGB').save(path)


def _other_size(path):
  save_mask(path, np.zeros((30, 52), np.uint8))


def _wrong_label(path):
  save_mask(path, np.full((40, 52), 21, np.uint8))


def _damaged(path):
  path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
  ('spoil', 'message'),
  [
    (_no_mask, r'1 of 4 masks .* are not there, the first is .*2007_2\.png'),
    (_colours, r'no mask .*2007_2\.png: it is a PNG of mode RGB: give the ind'),
    (
      _other_size,
      r'mask .*2007_2\.png has 52x30 pixels, and its image .*52x40',
    ),
    (_wrong_label, r'mask .*2007_2\.png has labels that are no class .*: 21$'),
    (_damaged, r'no mask .*2007_2\.png: '),
  ],
)
def test_a_wrong_mask_is_one_line_with_its_path(root, spoil, message):
  spoil(root / f'VOCdevkit/VOC2012/SegmentationClass/{TRAIN[1]}.png')
  with pytest.raises(errors.UsageError, match=message) as caught:
    opened(root).split('train').read(1)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('saved', 'message'),
  [
    ({'other': np.zeros(3)}, 'it has no GTcls.Segmentation'),
    ({'GTcls': np.zeros(3)}, 'it has no GTcls.Segmentation'),
    (b'MATLAB', r'no mask .*x\.mat: '),
    (b'0' * (2**20 + 1), 'it has 1048577 bytes'),
  ],
)
def test_a_mat_that_is_none_of_sbd_is_one_line(tmp_path, saved, message):
  path = tmp_path / 'x.mat'
  if isinstance(saved, bytes):
    path.write_bytes(saved)
  else:
    scipy.io.savemat(path, saved)
  with pytest.raises(errors.UsageError, match=message):
    voc.read_mask(path)


def test_lists_and_folders_that_are_wrong_are_one_line(root):
  lists = root / 'VOCdevkit/VOC2012/ImageSets/Segmentation'
  for text, message in (
    ('a\n../../etc/passwd\n\x1b[2J', r"train\.txt, line 3: '\\x1b\[2J' is no"),
    ('\n', r'the list .*train\.txt is empty'),
    (f'{VAL[0]}\n', r'train\.txt and val\.txt share 1 images \(2007_3\)'),
    ('2099_1\n', r'1 of 3 images that its lists name are not there'),
  ):
    (lists / 'train.txt').write_text(text)
    with pytest.raises(errors.UsageError, match=message):
      opened(root)
  with pytest.raises(errors.UsageError, match='holds no VOC 2012'):
    opened(root / 'VOCdevkit')
  with pytest.raises(errors.UsageError, match=r'^image_size=0: the images'):
    data.open_source(f'voc:{root}')


def test_evaluation_scales_the_whole_image_and_takes_nearest_labels(root):
  part = opened(root).arrays('test')
  assert part.image.shape == (2, 32, 32, 3)
  for i in range(2):
    want = Image.fromarray(picture(2 + i)[1]).resize((32, 32), 0)
    np.testing.assert_array_equal(part.labels[i], np.asarray(want))


def trained(root, folder):
  """The metrics of an epoch of 2 steps with a tiny DeepLab."""
  config = config_lib.of_teacher(config_lib.scenes_segmentation())
  small = {'aspp_width': 4, 'low_width': 4, 'decoder_width': 4}
  config.student = config_lib.ConfigDict(
    {
      'name': 'deeplab_resnet10_small',
      'args': {'widths': (4, 4, 4, 4, 4), **small},
    }
  )
  config.data.name, config.data.image_size = f'voc:{root}', 32
  config.data.augment = 'segmentation'
  config.data.scale, config.data.flip = (20, 60), True
  config.data.eval_protocol = 'paper'
  config.data.workers = 0
  config.epochs, config.batch_size, config.eval_batch_size = 1, 2, 2
  config.mesh.data = 1
  run.train(config, run_dir.Folder(folder))
  return run_dir.Folder(folder).read('result.json')


def test_an_epoch_trains_through_the_real_reader(root, tmp_path):
  add_sbd(root)
  result = trained(root, tmp_path / 'run')
  assert (result['steps'], result['train_images']) == (2, 4)
  assert result['headline'] == 'miou'
  assert 0 <= result['miou'] <= 100
  assert result['protocol'] == 'last epoch, paper'
  said = (tmp_path / 'run/log.txt').read_text()
  assert 'protocol paper: images keep their aspect' in said


@pytest.mark.drill
def test_a_run_is_evaluated_by_the_protocol_that_is_asked_for(
  root, tmp_path, capsys
):
  add_sbd(root)
  result, found = trained(root, tmp_path / 'run'), {}
  for protocol in ('', 'original', 'square'):
    file = tmp_path / f'{protocol}.json'
    arguments = [str(tmp_path / 'run'), f'--eval_protocol={protocol}']
    assert evaluate.main([*arguments, f'--json={file}']) == 0
    figures = found[protocol] = json.loads(file.read_text())
    assert figures['protocol'] == (protocol or 'paper')
    said = capsys.readouterr().out
    assert f'2 images, protocol {figures["protocol"]}\n' in said
  assert found['']['miou'] == result['miou']
  labels = [picture(2 + i)[1] for i in range(2)]
  assert found['original']['pixels'] == sum((x != 255).sum() for x in labels)


def test_an_export_is_evaluated_by_squares_alone(root):
  split = opened(root)
  images, info = split.split('test'), split.info
  facts = {'accuracy': {'protocol': 'paper'}, 'image_size': 32}
  of_run = artifact.Trained({}, None, facts)
  exported = of_run._replace(facts={**facts, 'format': 1})
  assert measure.protocol(of_run, info, images, '') == 'paper'
  assert measure.protocol(of_run, info, images, 'original') == 'original'
  assert measure.protocol(exported, info, images, '') == 'square'
  with pytest.raises(
    errors.ArgumentError, match='an export takes images of 32'
  ):
    measure.protocol(exported, info, images, 'paper')
  with pytest.raises(errors.ArgumentError, match='the task is detection'):
    measure.protocol(of_run, info._replace(task='detection'), images, 'paper')


def feeds(root, workers, epoch=0):
  """The first two batches of an epoch, 2 images each."""
  add_sbd(root)
  found = opened(root)
  how = augment_masks.Masked(32, (20, 60))
  streamed = stream.Streamed(
    found.split('train'), found.info, sharding.make_mesh(1), workers=workers,
    batch_size=2, seed=5, steps=8, masked=how,
  )  # fmt: skip
  batches = streamed.feeds(2 * epoch)
  taken = [next(batches) for _ in range(2)]
  if hasattr(batches, 'close'):
    batches.close()
  return taken


def pairs_of(feed):
  return zip(feed['index'].tolist(), feed['image'], strict=True)


def test_streamed_batches_are_the_same_bits_with_and_without_workers(root):
  here, again, there = (feeds(root, workers) for workers in (0, 0, 1))
  for a, b, c in zip(here, again, there, strict=True):
    assert a['image'].shape == (2, 32, 32, 3)
    assert a['label'].shape == (2, 32, 32)
    for name in a:
      np.testing.assert_array_equal(a[name], b[name])
      np.testing.assert_array_equal(a[name], c[name])
  order = [i for batch in here for i in batch['index'].tolist()]
  assert sorted(order) == [0, 1, 2, 3]
  images = dict(pair for b in here for pair in pairs_of(b))
  later = dict(pair for b in feeds(root, 0, 1) for pair in pairs_of(b))
  assert all(np.any(images[i] != later[i]) for i in images)

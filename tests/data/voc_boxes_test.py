"""Real JPEG and XML files in VOC's layout for detection."""

import itertools

from etils import epath
import jax
import numpy as np
from PIL import Image
import pytest

from kd_jax import config as config_lib
from kd_jax import data, errors, tasks
from kd_jax.data import augment, augment_boxes, decode, resident, stream
from kd_jax.data.sets import voc_boxes
from kd_jax.distill import build, checks
from kd_jax.export import predict_template
from kd_jax.runtime import run_dir, sharding
from kd_jax.training import run, splits
from tests.data import fuzz_test, voc_test

PARTS = {
  ('VOC2007', 'trainval'): ('000005', '000007', '000009'),
  ('VOC2012', 'trainval'): ('2008_000002', '2008_000003'),
  ('VOC2007', 'test'): ('000001', '000002', '000003'),
}
COLOURS = np.array(
  [[230, 40, 40], [40, 230, 40], [60, 60, 240], [230, 230, 40]], np.uint8
)


def picture(seed, classes=(0, 6, 14)):
  """An image of one to three boxes in the colours of their classes.

  Returns:
    The image [h,w,3] u8, and for each box its class and its pixels (x1, y1, x2,
    y2) from 0, the last ones behind it.
  """
  rng = np.random.default_rng(seed)
  width, height = (int(x) for x in rng.integers(64, 100, 2))
  image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
  objects = []
  for _ in range(rng.integers(1, 4)):
    k = int(rng.integers(len(classes)))
    w, h = (int(x) for x in rng.integers(20, 44, 2))
    x, y = int(rng.integers(width - w)), int(rng.integers(height - h))
    image[y : y + h, x : x + w] = COLOURS[k]
    objects.append((classes[k], (x, y, x + w, y + h)))
  return image, objects


def element(name, box, difficult='<difficult>0</difficult>'):
  """An object as VOC has it; of a person's parts the boxes are not its own."""
  edges = ('xmin', 'ymin', 'xmax', 'ymax')
  corners = ''.join(f'<{e}>{v}</{e}>' for e, v in zip(edges, box, strict=True))
  part = '<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>'
  return (
    f'<object>{part}<name>{name}</name><pose>Left</pose>{difficult}'
    f'<bndbox>{corners}</bndbox></object>'
  )


def annotation(sides, objects):
  """The XML file of an image; pixels count from 1 there."""
  return (
    f'<annotation><filename>x.jpg</filename><size><width>{sides[0]}</width>'
    f'<height>{sides[1]}</height><depth>3</depth></size>{"".join(objects)}'
    '</annotation>\n'
  )


def add(root, year, name, seed):
  """Adds an image with its XML file."""
  image, objects = picture(seed)
  base = root / 'VOCdevkit' / year
  voc_test.save_jpeg(base / f'JPEGImages/{name}.jpg', image)
  written = [
    element(voc_boxes.CLASSES[k], [x + 1 for x in box]) for k, box in objects
  ]
  path = base / f'Annotations/{name}.xml'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(annotation(image.shape[1::-1], written))


def make(root, parts=None):
  """Makes VOC 2007 and 2012 with a few images; returns the folder."""
  parts = parts or PARTS
  for (year, part), names in parts.items():
    lists = root / 'VOCdevkit' / year / 'ImageSets/Main'
    voc_test.write_list(lists / f'{part}.txt', names)
  every = [(year, n) for (year, _), names in parts.items() for n in names]
  for seed, (year, name) in enumerate(every):
    add(root, year, name, seed)
  return root


@pytest.fixture
def root(tmp_path):
  """VOC 2007 and 2012 with five images to train on and three to test."""
  return make(tmp_path)


def xml_of(root, name='000007', year='VOC2007'):
  return root / f'VOCdevkit/{year}/Annotations/{name}.xml'


def opened(root, size=48):
  return data.open_source.__wrapped__(f'voc_boxes:{root}', image_size=size)


def objects_of(target):
  there = target['label'] >= 0
  return target['label'][there].tolist(), target['boxes'][there]


def test_both_years_are_trained_on_and_the_test_of_2007_is_the_result(root):
  found = opened(root)
  info = found.info
  assert (info.task, len(info.class_names)) == ('detection', 20)
  assert info.class_names[:2] == ('aeroplane', 'bicycle')
  assert (info.num_train, info.num_val, info.num_test) == (5, 0, 3)
  for split, first in (('train', 0), ('test', 5)):
    images = found.split(split)
    for i in range(len(images)):
      want, objects = picture(first + i)
      image, target = images.read(i)
      assert np.abs(image.astype(int) - want).mean() < 20
      labels, boxes = objects_of(target)
      assert labels == [k for k, _ in objects]
      height, width = want.shape[:2]
      pixels = boxes * (width, height, width, height)
      # Its last pixel is not in the box that (value - 1) / side gives.
      np.testing.assert_allclose(pixels, [x for _, x in objects], atol=1e-4)
  assert any(
    "VOC2007's trainval (3 images) and VOC2012's trainval (2 images) are "
    in note
    for note in found.notes
  )
  assert any("VOC2012's trainval has 11540" in note for note in found.notes)


def test_without_voc_2012_that_of_2007_is_trained_on_and_said(tmp_path):
  parts = {k: names for k, names in PARTS.items() if k[0] == 'VOC2007'}
  found = opened(make(tmp_path, parts))
  assert (found.info.num_train, found.info.num_test) == (3, 3)
  assert any('VOC 2012 is not there' in note for note in found.notes)


def written(root, *elements, name='000007', sides=(100, 50)):
  """Writes an image's XML file again; returns the data set."""
  xml_of(root, name).write_text(annotation(sides, elements))
  return opened(root)


def test_boxes_are_cut_off_at_the_image_and_difficult_ones_keep_a_flag(root):
  hard = '<difficult>1</difficult>'
  found = written(
    root,
    element('dog', (0, 1, 51, 26)),
    element('cat', ('11.5', 11, 151, 61), hard),
    element('cow', (101, 1, 140, 20)),  # behind the right edge
    element('car', (21, 11, 41, 31), ''),
  )
  rows = found.split('train')
  names = [voc_boxes.CLASSES[k] for k in rows.labels[1] if k >= 0]
  assert names == ['dog', 'cat', 'car']
  want = [[0, 0, 0.5, 0.5], [0.105, 0.2, 1, 1], [0.2, 0.2, 0.4, 0.6]]
  np.testing.assert_allclose(rows.boxes[1, :3], want, atol=1e-6)
  assert rows.difficult[1, :3].tolist() == [False, True, False]
  path = xml_of(root)
  for line in (
    f'2 boxes reach out of their images and are cut off there (the first in '
    f'{path})',
    f'1 objects have no area in their images and are left out (the first in '
    f'{path})',
  ):
    assert found.notes.count(line) == 1


@pytest.mark.parametrize('hard', [True, False])
def test_an_image_with_nothing_to_learn_is_left_out_of_training_alone(
  root, hard
):
  elements = [element('dog', (1, 1, 9, 9), '<difficult>1</difficult>')] * hard
  written(root, *elements, name='000007')
  found = written(root, *elements, name='000002')
  assert (found.info.num_train, found.info.num_test) == (4, 3)
  stems = [pair.image.stem for pair in found.split('train').pairs]
  assert '000007' not in stems
  assert found.notes[-1] == (
    '1 of 5 training images have no object that is not difficult and are left '
    'out (000007)'
  )
  for (year, part), names in PARTS.items():
    for name in names if part == 'trainval' else ():
      xml_of(root, name, year).write_text(annotation((60, 60), elements))
  with pytest.raises(errors.UsageError, match='no training image has an obj'):
    opened(root)


def test_the_fingerprint_is_of_contents_and_of_splits(root):
  prints = {opened(root).info.fingerprint, opened(root).info.fingerprint}
  assert len(prints) == 1
  add(root, 'VOC2007', '000007', 50)
  prints.add(opened(root).info.fingerprint)
  xml = xml_of(root)
  xml.write_text(xml.read_text().replace('Left', 'Right'))
  prints.add(opened(root).info.fingerprint)
  lists = root / 'VOCdevkit/VOC2007/ImageSets/Main'
  names = PARTS['VOC2007', 'test'], PARTS['VOC2007', 'trainval']
  for part, values in zip(('trainval', 'test'), names, strict=True):
    voc_test.write_list(lists / f'{part}.txt', values)
  prints.add(opened(root).info.fingerprint)
  assert len(prints) == 4


DOG = element('dog', (1, 1, 9, 9))
GOOD = annotation((60, 60), [DOG])
WRONG = {
  'nothing': ('', 'no element found'),
  'no XML': ('{"size": 3}', 'not well-formed'),
  'cut off': (GOOD[:150], 'unclosed token'),
  'a DTD': ('<!DOCTYPE annotation [<!ENTITY a "b">]>' + GOOD, 'has a DTD'),
  'an entity': (GOOD.replace('x.jpg', '&a;'), 'undefined entity'),
  'HTML': ('<html></html>', 'it is no <annotation> with a <size>'),
  'no size': ('<annotation></annotation>', 'no <annotation> with a <size>'),
  'no sides': (annotation((0, 60), [DOG]), 'its image has 0x60 pixels'),
  'a word': (GOOD.replace('<ymax>9', '<ymax>x'), "<ymax> is 'x', no number"),
  'infinity': (GOOD.replace('<ymax>9', '<ymax>inf'), "<ymax> is 'inf', no n"),
  'no edge': (GOOD.replace('ymax', 'top'), '<bndbox> has no <ymax>'),
  'no box': (GOOD.replace('bndbox', 'box'), 'an <object> has no <bndbox>'),
  'reversed': (
    annotation((60, 60), [element('dog', (9, 1, 8, 5))]),
    'a box ends before it begins: xmin 9, ymin 1, xmax 8, ymax 5',
  ),
  'a class': (GOOD.replace('>dog', '>dgo'), "class 'dgo'; did you mean 'dog'?"),
  'a level': (GOOD.replace('lt>0', 'lt>2'), "<difficult> is '2', neither 0 n"),
  'objects': (annotation((60, 60), [DOG] * 1001), 'it has 1001 objects, and a'),
  'bytes': (GOOD + ' ' * 2**20, 'it has more than 1048576 bytes'),
}


@pytest.mark.parametrize('kind', WRONG)
def test_a_wrong_annotation_is_one_line_with_its_path(root, kind):
  content, message = WRONG[kind]
  xml_of(root).write_text(content)
  with pytest.raises(errors.UsageError) as caught:
    opened(root)
  said = str(caught.value)
  assert said.startswith(f'no annotation {xml_of(root)}: ')
  assert message in said
  assert '\n' not in said


def test_a_damaged_annotation_is_one_line_or_has_boxes_within_its_image(
  tmp_path,
):
  path = epath.Path(tmp_path / 'x.xml')
  rng = np.random.default_rng(0)
  read, said = 0, []
  for _ in range(300):
    path.write_bytes(fuzz_test.damaged(GOOD.encode(), rng))
    try:
      found = voc_boxes.read_objects(path)
    except errors.UsageError as error:
      said.append(str(error))
    else:
      read += 1
      boxes = found.boxes
      assert len(boxes) == len(found.label) == len(found.difficult)
      assert ((boxes >= 0) & (boxes <= 1)).all()
      assert (boxes[:, 2:] > boxes[:, :2]).all()
  assert read
  assert said
  for line in said:
    assert line.startswith(f'no annotation {path}: ')
    assert '\n' not in line


def test_files_lists_and_folders_that_are_missing_are_one_line(root):
  kit = root / 'VOCdevkit'
  with pytest.raises(errors.UsageError, match='holds no VOC 2007: there is no'):
    opened(kit)
  with pytest.raises(errors.UsageError, match=r'^image_size=0: the images'):
    data.open_source(f'voc_boxes:{root}')
  for path, message in (
    (xml_of(root), r'1 of 8 XML files that its lists name .* 000007\.xml$'),
    (kit / 'VOC2007/JPEGImages/000001.jpg', r'1 of 8 images that .*001\.jpg$'),
    (kit / 'VOC2012/ImageSets/Main/trainval.txt', 'cannot read the list'),
  ):
    path.rename(root / 'away')
    with pytest.raises(errors.UsageError, match=message.replace(' 0', '.*0')):
      opened(root)
    (root / 'away').rename(path)
  lists = kit / 'VOC2007/ImageSets/Main'
  voc_test.write_list(lists / 'test.txt', ('000001', '000005'))
  with pytest.raises(errors.UsageError, match=r'1 images are in two .*000005'):
    opened(root)


def test_an_image_of_other_sides_than_its_annotation_is_refused_when_read(root):
  images = written(root, DOG, sides=(61, 60)).split('train')
  path = root / 'VOCdevkit/VOC2007/JPEGImages/000007.jpg'
  Image.new('RGB', (60, 61)).save(path)
  with pytest.raises(
    errors.UsageError, match=r'000007\.xml says 61x60 .*000007\.jpg has 60x61'
  ):
    images.read(1)


def test_evaluation_resizes_the_whole_image_as_predictions_do(root):
  found = opened(root)
  part = found.arrays('test')
  assert part.image.shape == (3, 48, 48, 3)
  images = found.split('test')
  for i, pair in enumerate(images.pairs):
    whole = Image.fromarray(decode.read(pair.image))
    alone = predict_template.resized(whole, 48, 'detection')
    np.testing.assert_array_equal(part.image[i], np.asarray(alone))
    for k, box in zip(part.labels[i], part.others['boxes'][i], strict=True):
      if k >= 0:
        x, y = ((box[:2] + box[2:]) * 24).astype(int)
        assert part.image[i, y, x].max() > 120  # an object is at its centre
  np.testing.assert_array_equal(part.others['boxes'], images.boxes)


HOW = augment_boxes.Boxed(48, (0.4, 0.4, 0.4))


def streamed(root, workers=0, **how):
  found = opened(root)
  return stream.Streamed(
    found.split('train'), found.info, sharding.make_mesh(1), workers=workers,
    batch_size=2, seed=5, steps=8, **(how or {'boxed': HOW}),
  )  # fmt: skip


def taken(split, first=0, count=2):
  batches = split.feeds(first)
  feeds = list(itertools.islice(batches, count))
  if hasattr(batches, 'close'):
    batches.close()
  return feeds


@pytest.mark.parametrize(
  'workers', [(0,), pytest.param((1, 2), marks=pytest.mark.drill)]
)
def test_augmented_batches_are_the_same_bits_for_any_number_of_workers(
  root, workers
):
  here, *others = (taken(streamed(root, n)) for n in (0, *workers))
  for feeds in others:
    for a, b in zip(here, feeds, strict=True):
      assert set(a) == {'image', 'boxes', 'label', 'difficult', 'index'}
      assert a['image'].shape == (2, 48, 48, 3)
      for name in a:
        np.testing.assert_array_equal(a[name], b[name])
  later = taken(streamed(root), first=2)  # of the next epoch
  rows = [dict(zip(f['index'], f['image'], strict=True)) for f in here + later]
  pairs = itertools.combinations(rows, 2)
  both = [(a[i], b[i]) for a, b in pairs for i in set(a) & set(b)]
  assert both
  assert all(np.any(a != b) for a, b in both)


def test_difficult_objects_are_not_seen_by_the_augmentation():
  image, _ = picture(0)
  boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]], np.float32)
  target = {
    'boxes': boxes[[1, 0, 0]],
    'label': np.array([3, 2, -1], np.int32),
    'difficult': np.array([True, False, False]),
  }
  for seed in range(20):
    got, new = augment_boxes.augmented(
      np.random.default_rng(seed), image, target, HOW
    )
    want, alone, _ = augment_boxes.augment(
      np.random.default_rng(seed), image, boxes[:1], np.array([2]), HOW
    )
    np.testing.assert_array_equal(got, want)
    assert new['label'].tolist() == [2, -1, -1]
    np.testing.assert_array_equal(new['boxes'][:1], alone)
    assert not new['boxes'][1:].any()
    assert not new['difficult'].any()


def test_streamed_batches_are_those_of_the_device(root):
  found, mesh = opened(root), sharding.make_mesh(1)
  how = {'crop_flip': augment.CropFlip(4, 'zero', True)}
  on_device = resident.Training(
    found.arrays('train'), found.info, mesh, batch_size=2, seed=5, **how
  )
  for split in (on_device, from_host := streamed(root, **how)):
    assert split.size == 5
  batches = [
    jax.jit(split.batch)(split.arrays, taken(split, 1, 1)[0], jax.random.key(1))
    for split in (on_device, from_host)
  ]
  assert set(batches[0]) == set(batches[1])
  for name, want in batches[0].items():
    np.testing.assert_array_equal(batches[1][name], want, err_msg=name)


def config_of(root):
  """An epoch of 2 steps with a tiny SSD for images of 48 pixels."""
  config = config_lib.of_teacher(config_lib.scenes_detection())
  config.student = config_lib.network('ssd48_resnet10', widths=(4, 4, 4, 4, 4))
  config.data.name, config.data.image_size = f'voc_boxes:{root}', 48
  config.data.augment, config.data.flip = 'detection', True
  config.data.workers = 0
  config.epochs, config.batch_size, config.eval_batch_size = 1, 2, 2
  config.mesh.data = 1
  return config


def test_a_run_is_built_with_the_real_reader(root):
  config = config_of(root)
  parts = build.build(config)
  assert (parts.total_steps, parts.steps_per_epoch) == (2, 2)
  split = splits.training(config, parts, print)
  feed = taken(split, count=1)[0]
  want = taken(streamed(root, boxed=HOW._replace(mean=parts.source.info.mean)))
  assert set(split.batch({}, feed, jax.random.key(0))) == set(want[0])
  config.seed, config.data.flip = 5, False
  feed = taken(splits.training(config, parts, print), count=1)[0]
  assert feed['index'].tolist() == want[0]['index'].tolist()
  assert feed['boxes'].tolist() != want[0]['boxes'].tolist()  # not mirrored


@pytest.mark.drill
def test_an_epoch_trains_through_the_real_reader(root, tmp_path):
  folder = run_dir.Folder(tmp_path / 'run')
  run.train(config_of(root), folder)
  result = folder.read('result.json')
  assert (result['steps'], result['train_images']) == (2, 5)
  assert result['headline'] == 'map'
  assert 0 <= result['map'] <= 100


@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_its_augmentation_is_for_boxes_alone(task):
  config = config_lib.load('ce:digits')
  config.data.augment = 'detection'
  with pytest.raises(
    errors.UsageError, match=r"config.data.augment='detection' moves images wi"
  ):
    checks.check_method(config, tasks.find(task))

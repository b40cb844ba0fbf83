import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from kd_jax import data, errors
from kd_jax.data import augment, resident, source
from kd_jax.distill import build
from kd_jax.runtime import sharding
from tests.cli import train_test


def test_digits_are_scikit_learns_split_once():
  whole = datasets.load_digits()
  opened = data.open_source('digits')
  train, test = opened.split('train'), opened.split('test')
  assert train.image.shape == (1437, 8, 8, 3)
  assert test.image.shape == (360, 8, 8, 3)
  assert train.image.dtype == test.image.dtype == np.uint8
  together = np.concatenate([train.image, test.image])[..., 0]
  want = np.round(whole.images * 255 / 16).astype(np.uint8)

  def ordered(images):
    return np.sort([image.tobytes() for image in images])

  np.testing.assert_array_equal(ordered(together), ordered(want))


def test_digits_splits_are_stratified_and_their_constants_measured():
  opened = data.open_source('digits')
  train, test = opened.split('train'), opened.split('test')
  counts = np.bincount(test.labels)
  assert counts.min() >= 34
  assert counts.max() <= 37
  scaled = train.image / 255
  np.testing.assert_allclose(scaled.mean(), opened.info.mean[0], atol=1e-4)
  np.testing.assert_allclose(scaled.std(), opened.info.std[0], atol=1e-4)


def test_a_subset_is_stratified_and_always_the_same():
  small = data.open_source('digits', train_size=300)
  first, again = small.split('train'), small.split('train')
  for i in range(300):
    (image, label), (image_again, label_again) = first.read(i), again.read(i)
    np.testing.assert_array_equal(image, image_again)
    assert label == label_again == first.labels[i]
  assert small.info.num_train == len(first) == 300
  counts = np.bincount(first.labels)
  assert counts.min() >= 29
  assert counts.max() <= 31
  assert len(small.split('test')) == 360


def test_stratified_gives_exactly_the_size_asked_for():
  labels = np.repeat(np.arange(7), [5, 9, 4, 11, 8, 3, 6])
  for size in range(7, 46):
    chosen = source.stratified(labels, size, seed=1)
    assert len(set(chosen)) == size


@pytest.mark.parametrize('size', [9, 1438])
def test_an_impossible_subset_is_refused(size):
  with pytest.raises(errors.UsageError, match='give 10 to 1437'):
    data.open_source('digits', train_size=size)


def test_an_unknown_data_set_names_the_nearest():
  with pytest.raises(errors.UsageError, match="did you mean 'digits'"):
    data.open_source('digit')


def training(size=13, batch_size=4, seed=0, how=None):
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (size, 6, 6, 3)).astype(np.uint8)
  label = (np.arange(size) % 3).astype(np.int32)
  info = source.Info(
    'x', ('a', 'b', 'c'), 6, size, 0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
  )
  return resident.Training(
    source.Arrays(image, label),
    info,
    sharding.make_mesh(1),
    batch_size=batch_size,
    seed=seed,
    crop_flip=how or augment.CropFlip(2, 'zero', True),
  ), source.Arrays(image, label)


def feed(dataset, step):
  return next(dataset.feeds(step))


def test_an_epoch_shows_each_image_at_most_once_in_a_new_order():
  dataset, _ = training()
  epochs = [
    np.concatenate([feed(dataset, 3 * e + i)['index'] for i in range(3)])
    for e in range(3)
  ]
  for order in epochs:
    assert len(set(order)) == 12
  assert not np.array_equal(epochs[0], epochs[1])
  # The image left over is another one in time.
  assert set.union(*(set(order) for order in epochs)) == set(range(13))


def test_a_batch_is_a_function_of_seed_and_step_alone():
  (one, _), (other, _), (seeded, _) = training(), training(), training(seed=1)
  late = feed(one, 100)['index']
  for step in (7, 3, 100):
    feed(other, step)
  np.testing.assert_array_equal(feed(other, 100)['index'], late)
  assert not np.array_equal(feed(seeded, 100)['index'], late)
  key = jax.random.key(3)
  now = feed(one, 5)
  a, b = one.batch(one.arrays, now, key), other.batch(other.arrays, now, key)
  np.testing.assert_array_equal(a['image'], b['image'])


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror(mode):
  _, split = training()
  how = augment.CropFlip(2, mode, True)
  crops, (_, _, flipped) = augment.crop_flip(
    jnp.asarray(split.image), jax.random.key(0), how
  )
  pad = {'zero': 'constant', 'reflect': 'reflect'}[mode]
  offsets, mirrored = set(), set()
  told = np.asarray(flipped)
  for image, crop, flip_ in zip(
    split.image, np.asarray(crops), told, strict=True
  ):
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=pad)
    matches = [
      (y, x, flip)
      for y in range(5)
      for x in range(5)
      for flip in (False, True)
      if np.array_equal(
        crop, padded[y : y + 6, x : x + 6][:, :: -1 if flip else 1]
      )
    ]
    assert matches
    offsets.add(matches[0][:2])
    mirrored.add(matches[0][2])
    assert flip_ in {flip for _, _, flip in matches}
  assert len(offsets) > 5
  assert mirrored == {False, True}


def test_a_crop_by_products_is_the_gather_to_the_bit():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (7, 9, 6, 3), np.uint8)
  y, x = (rng.integers(-4, n + 4, (7, n), np.int32) for n in (9, 6))
  found, want = (
    jax.jit(each)(images, y, x)
    for each in (augment._multiplied, augment.gathered)
  )
  assert found.dtype == want.dtype == np.uint8
  np.testing.assert_array_equal(found, want)


def test_without_padding_and_flip_images_stay_as_they_are():
  dataset, split = training(how=augment.CropFlip(0, 'zero', False))
  now = feed(dataset, 0)
  batch = dataset.batch(dataset.arrays, now, jax.random.key(0))
  mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
  want = (split.image[now['index']] / 255 - mean) / std
  np.testing.assert_allclose(batch['image'], want, atol=1e-5)
  np.testing.assert_array_equal(batch['label'], split.labels[now['index']])


def test_evaluation_feeds_cover_the_split_once():
  dataset, _ = training()
  feeds = list(dataset.eval_feeds(5))
  assert [len(feed['index']) for feed in feeds] == [5, 5, 5]
  index = np.concatenate([feed['index'] for feed in feeds])
  mask = np.concatenate([feed['mask'] for feed in feeds])
  np.testing.assert_array_equal(index[mask > 0], np.arange(13))


def own_digits(image_size):
  """A data set of the user's own, as `config.data.name` can name it."""
  opened = data.open_source('digits')
  info = opened.info._replace(name='own digits', fingerprint='1')
  return source.Source(info, opened.split)


def changing_digits(image_size):
  return data.open_source('digits')


def no_source(image_size):
  return image_size


def test_a_function_of_the_users_own_is_a_data_set():
  opened = data.open_source('tests.data.data_test:own_digits', train_size=300)
  assert opened.info.name == 'own digits'
  assert len(opened.split('train')) == 300
  with pytest.raises(errors.UsageError, match=r'has no Info\.fingerprint'):
    data.open_source('tests.data.data_test:changing_digits')
  with pytest.raises(errors.UsageError, match='returns int, not'):
    data.open_source('tests.data.data_test:no_source')
  with pytest.raises(errors.UsageError, match=r'cannot import .nowhere'):
    data.open_source('nowhere:digits')


def test_a_subset_keeps_an_image_of_every_class():
  labels = np.repeat([0, 1, 2], [1000, 10, 3])
  for size in (3, 4, 24, 100, 1012):
    chosen = source.stratified(labels, size, seed=0)
    counts = np.bincount(labels[chosen], minlength=3)
    assert counts.sum() == size
    assert counts.min() >= 1
  assert np.bincount(labels[source.stratified(labels, 24, 0)]).tolist() == [
    22, 1, 1
  ]  # fmt: skip


def test_a_part_leaves_an_image_of_every_class():
  labels = np.repeat([0, 1, 2], [1000, 10, 3])
  for size in (3, 101, 507, 1000, 1010):
    chosen = source.stratified(labels, size, seed=0, leave=1)
    counts = np.bincount(labels[chosen], minlength=3)
    assert counts.sum() == size
    assert counts.min() >= 1
    assert (np.array([1000, 10, 3]) - counts).min() >= 1


def test_proportions_are_those_of_before_where_every_class_has_its_share():
  labels = np.repeat([0, 1, 2], [20, 30, 50])
  chosen = source.stratified(labels, 13, seed=5)
  rng = np.random.Generator(np.random.Philox(5))
  want = [
    rng.permutation(np.flatnonzero(labels == k))[:n]
    for k, n in enumerate([3, 4, 6])
  ]
  np.testing.assert_array_equal(chosen, np.sort(np.concatenate(want)))


def uneven(image_size, labels=(0,) * 40 + (1,) * 9 + (2,) * 3 + (3,)):
  """A data set of the user's own with classes of 40, 9, 3 and 1 images."""
  labels = np.array(labels)
  images = np.zeros((len(labels), 8, 8, 3), np.uint8)
  half = (0.5,) * 3
  info = source.Info(
    'uneven', tuple('abcd'), 8, len(labels), len(labels), half, half,
    fingerprint='1',
  )  # fmt: skip
  return source.Source(info, lambda split: source.Arrays(images, labels))


def even(image_size):
  return uneven(0, (0,) * 40 + (1,) * 9 + (2,) * 3 + (3,) * 2)


def mislabelled(image_size):
  return uneven(0, (0,) * 40 + (-1,) * 9 + (4,) * 3 + (7,))


def test_every_class_is_in_both_parts_or_the_request_is_refused():
  name = 'tests.data.data_test:'
  opened = data.open_source(f'{name}even', val_fraction=0.1)
  for split, size in (('train', 49), ('val', 5)):
    counts = np.bincount(opened.split(split).labels, minlength=4)
    assert counts.sum() == size == getattr(opened.info, f'num_{split}')
    assert counts.min() >= 1
  opened = data.open_source(f'{name}uneven', train_size=12)
  assert set(opened.split('train').labels.tolist()) == {0, 1, 2, 3}
  opened = data.open_source(f'{name}uneven', val_fraction=0.1)
  with pytest.raises(
    errors.UsageError,
    match=r'^val_fraction=0.1: of 53 .* 1 classes have a single one \(d\)',
  ):
    opened.split('train')


def test_labels_that_are_no_class_are_refused_with_their_count():
  opened = data.open_source('tests.data.data_test:mislabelled')
  with pytest.raises(
    errors.UsageError,
    match=r'mislabelled, train: 13 of 53 labels are no class from 0 to 3: '
    r'-1 \(9 times\), 4 \(3 times\), 7 \(1 times\); correct them',
  ):
    opened.split('train')


@pytest.mark.parametrize(
  ('name', 'fraction', 'message'),
  [
    ('mislabelled', 0.0, r'mislabelled, train: 13 of 53 labels are no class'),
    ('uneven', 0.1, r'^config\.data\.val_fraction=0\.1: of 53 training'),
  ],
)
def test_a_run_refuses_labels_before_anything_is_traced(
  monkeypatch, name, fraction, message
):
  config = train_test.configuration('ce').get_config('digits')
  config.data.name = f'tests.data.data_test:{name}'
  config.data.train_size, config.data.val_fraction = 0, fraction
  config.mesh.data, config.batch_size = 1, 8
  data.open_source.cache_clear()
  monkeypatch.setattr(build, 'trace', None)
  with pytest.raises(errors.UsageError, match=message):
    build.build(config)

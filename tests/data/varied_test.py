"""Operations and policies on images, against torchvision's."""

import itertools
import json
import pickle

import numpy as np
from PIL import Image
import pytest

from kd_jax.data import (
  augment,
  mixing,
  operations,
  policies,
  source,
  stream,
  varied,
)
from kd_jax.runtime import sharding
from tests.methods import vectors

REFERENCE = np.load(vectors.STORED / 'augment.npz')
TABLES, SPACES, CASES = (
  json.loads(str(REFERENCE[key])) for key in ('tables', 'spaces', 'operations')
)
STILL = augment.CropFlip(0, 'zero', False)


def test_every_operation_has_the_pixels_of_torchvision():
  image = Image.fromarray(REFERENCE['image'])
  functions = {**operations.BY_NAME, 'hue': operations.hue}
  assert {name for name, _ in CASES} == {*functions}
  for (name, strength), want in zip(CASES, REFERENCE['operated'], strict=True):
    got = np.asarray(functions[name](image, strength))
    np.testing.assert_array_equal(got, want, f'{name} {strength}')


def test_the_tables_of_autoaugment_are_torchvisions():
  for policy, table in policies.TABLES.items():
    assert [[list(one) for one in pair] for pair in table] == TABLES[policy]


def test_magnitudes_are_torchvisions():
  for case, space in SPACES.items():
    policy, size = case.split()
    wide = policy == 'trivialaugment'
    for name, (values, signed) in space.items():
      assert signed == (name in policies._SIGNED), name
      for level, want in enumerate(values):
        got = policies.magnitude(name, level, int(size), len(values), wide=wide)
        assert got == pytest.approx(want, rel=2e-7), (case, name, level)
        if name.startswith('Translate') or name == 'Posterize':
          # torchvision has 15.999999 pixels in place of 16, and moves by 15.
          assert int(got) == int(want + 1e-5), (case, name, level)


@pytest.mark.parametrize('policy', policies.NAMES)
def test_a_policy_draws_its_operations_with_both_signs(policy):
  rng = np.random.default_rng(0)
  drawn = [policies.chosen(rng, policy, 32, 2, 9) for _ in range(2000)]
  counts = {len(one) for one in drawn}
  wanted = {'randaugment': {2}, 'trivialaugment': {1}}.get(policy, {0, 1, 2})
  assert counts == wanted
  every = [pair for one in drawn for pair in one]
  names = {name for name, _ in every}
  if policy in TABLES:
    # An operation of the probability 0 never is.
    could = {n for pair in TABLES[policy] for n, p, _ in pair if p}
    assert names == could
  else:
    assert names == {*SPACES[f'{policy} 32']}
  # AutoAugment's ShearX of ImageNet stands there once.
  signs = {np.sign(value) for name, value in every if name == 'Rotate'}
  assert {-1, 1} <= signs


def test_autoaugment_keeps_the_probabilities_of_its_table():
  rng = np.random.default_rng(0)
  drawn = [
    policies.chosen(rng, 'autoaugment_cifar10', 32, 2, 9) for _ in range(4000)
  ]
  pairs = TABLES['autoaugment_cifar10']
  wanted = sum(p for pair in pairs for _, p, _ in pair) / len(pairs)
  # An image gets 1.06 operations; their number has a deviation of 0.7.
  np.testing.assert_allclose(np.mean([*map(len, drawn)]), wanted, atol=0.05)


def test_colours_are_jittered_within_their_bounds():
  rng = np.random.default_rng(0)
  grey = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
  levels = [
    np.asarray(varied.jittered(rng, grey, (0.4, 0.4, 0.4, 0.1)))[0, 0, 0]
    for _ in range(200)
  ]
  assert 60 <= min(levels) < 65
  assert 135 < max(levels) <= 140
  red = Image.fromarray(np.full((4, 4, 3), (200, 0, 0), np.uint8))
  assert np.asarray(varied.jittered(rng, red, (0, 0, 0, 0.5)))[0, 0].max() > 190


def test_a_rectangle_is_erased_with_the_mean_of_the_data():
  rng = np.random.default_rng(0)
  image = np.full((32, 32, 3), 7, np.uint8)
  areas = []
  for _ in range(300):
    rows, columns = varied.erased_part(rng, (32, 32))
    got = varied.erased(image, (rows, columns), (0.5, 0.25, 1.0))
    inside = (got == (128, 64, 255)).all(-1)
    assert inside.sum() == inside[rows, columns].size
    assert (got[~inside] == 7).all()
    areas.append(inside.mean())
  assert min(areas) < 0.03
  assert 0.3 < max(areas) < 0.36  # sides are rounded
  np.testing.assert_allclose(np.mean(areas), 0.175, atol=0.02)
  assert (image == 7).all()


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_a_crop_is_a_part_of_the_padded_image(mode):
  rng = np.random.default_rng(0)
  image = rng.integers(1, 256, (5, 5, 3)).astype(np.uint8)
  padded = np.pad(
    image,
    ((2, 2), (2, 2), (0, 0)),
    'reflect' if mode == 'reflect' else 'constant',
  )
  parts = {
    part[:, ::side].tobytes()
    for y, x in itertools.product(range(5), repeat=2)
    for part in [padded[y : y + 5, x : x + 5]]
    for side in (1, -1)
  }
  how = augment.CropFlip(2, mode, True)
  seen = {varied.cropped(rng, image, how).tobytes() for _ in range(400)}
  assert seen == parts


def streamed():
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (9, 8, 8, 3)).astype(np.uint8)
  info = source.Info('x', ('a', 'b'), 8, 9, 0, (0.5,) * 3, (0.2,) * 3)
  return stream.Streamed(
    source.Arrays(image, (np.arange(9) % 2).astype(np.int32)),
    info,
    sharding.make_mesh(1),
    workers=0,
    batch_size=3,
    seed=1,
    steps=9,
    varied=varied.Varied(
      STILL, 'randaugment', 2, 20, (0.4, 0.4, 0.4, 0.1), 0.5, info.mean
    ),
    mixed=mixing.Mixing(2),
  )


def test_varied_images_are_a_function_of_seed_epoch_and_image():
  early = list(itertools.islice(streamed().feeds(2), 5))
  late = next(streamed().feeds(5))
  np.testing.assert_array_equal(late['image'], early[3]['image'])
  np.testing.assert_array_equal(late['index'], early[3]['index'])
  epochs = [
    {
      int(i): image.tobytes()
      for feed in itertools.islice(streamed().feeds(first), 3)
      for i, image in zip(feed['index'], feed['image'], strict=True)
    }
    for first in (0, 3)
  ]
  assert epochs[0].keys() == epochs[1].keys() == {*range(9)}
  assert sum(epochs[0][i] != epochs[1][i] for i in range(9)) > 6


def test_the_decoder_of_a_worker_is_the_same():
  how = varied.Varied(STILL, 'trivialaugment', jitter=(0.1, 0.2, 0.3, 0.1))
  images = source.Arrays(REFERENCE['image'][None], np.zeros(1, np.int32))
  decoder = stream.Decoder(images, 16, seed=5, varied=how)
  other = pickle.loads(pickle.dumps(decoder))
  for epoch in range(4):
    a, b = decoder(0, epoch)['image'], other(0, epoch)['image']
    np.testing.assert_array_equal(a, b)
  assert (a != REFERENCE['image']).any()

"""A model card says what the run says of itself, and no more."""

import json

import pytest
import yaml

from kd_jax import errors
from kd_jax.export import card

FACTS = {
  'network': 'resnet8',
  'network_args': {'widths': [4, 4, 8, 16]},
  'image_size': 16,
  'dtype': 'float32',
  'mean': [0.5, 0.5, 0.5],
  'std': [0.25, 0.25, 0.25],
  'class_names': ['cat', 'dog'],
  'parameters': 57906,
  'accuracy': {
    'data': 'digits', 'split': 'test', 'images': 360, 'correct': 347,
    'top1': 96.39,
  },
  'data': {'name': 'folder:/home/me/photos'},
  'result': {'method': 'pics', 'seed': 0, 'protocol': 'last epoch'},
  'teacher': 'resnet20',
}  # fmt: skip


def rows(text):
  """The rows of a card's table, by their names."""
  lines = [line for line in text.split('\n') if line.startswith('| ')]
  return dict(line.strip('| ').split(' | ', 1) for line in lines[1:])


def test_a_card_says_what_the_facts_say_and_that_the_rest_is_unknown():
  text = card.content(FACTS, {'predict.py', 'student.onnx'})
  said = rows(text)
  assert said['accuracy'].startswith('top-1 96.39%, 347 of 360 correct')
  assert said['teacher'] == '`resnet20`'
  assert said['method'] == '`pics`'
  assert said['protocol'] == '`last epoch`'
  assert said['its arguments'] == '`widths=[4, 4, 8, 16]`'
  assert said['classes'] == '2: `cat`, `dog`'
  for name in ('epochs', 'commit', 'training images', 'license'):
    assert said[name] == 'unknown', name
  assert '/home/me' not in text
  assert 'onnxruntime' in text
  assert 'torch' not in text
  layout = 'torchvision, timm (ResNet)'
  assert layout in card.content(FACTS, {'predict.py'}, layout=layout)


def test_it_names_all_teachers_and_says_that_weights_are_averaged():
  result = {**FACTS['result'], 'ema': 0.99}
  teachers = {'a': 'resnet20', 'b': 'wrn_16_2'}
  facts = {**FACTS, 'result': result, 'teacher': None, 'teachers': teachers}
  said = rows(card.content(facts, ()))
  assert said['teacher'] == '`resnet20`, `wrn_16_2`'
  assert said['weights'].endswith('decay 0.99')
  assert 'weights' not in rows(card.content(FACTS, ()))


def test_its_head_is_yaml_that_hugging_face_reads():
  _, head, _ = card.content(FACTS, (), 'apache-2.0').split('---\n', 2)
  assert yaml.safe_load(head) == {
    'license': 'apache-2.0',
    'library_name': 'kd_jax',
    'pipeline_tag': 'image-classification',
    'tags': ['jax', 'knowledge-distillation'],
  }


def test_names_from_outside_stay_within_their_cell():
  hostile = 'a`|\n---\nlicense: mit\n<script>'
  text = card.content({**FACTS, 'class_names': [hostile, 'b']}, ())
  assert text.count('\n---\n') == 1
  assert "`a'\\|\\n---\\nlicense: mit\\n<script>`" in text


@pytest.mark.parametrize('name', ['MIT License', 'mit\nx', '', 'a"b'])
def test_a_license_is_an_identifier(name):
  with pytest.raises(errors.UsageError, match=r"^license=.*'apache-2\.0'"):
    card.content(FACTS, (), name)


def test_a_card_is_the_same_of_facts_that_were_stored():
  stored = json.loads(json.dumps(FACTS))
  assert card.content(stored, ()) == card.content(FACTS, ())

"""The command `kd-jax` and its verbs."""

import sys

import pytest

from kd_jax import config as config_lib
from kd_jax import data, models
from kd_jax.cli import app, listing
from kd_jax.methods import registry
from tests import children


@pytest.mark.parametrize('argument', ['--help', '-h', 'help'])
def test_help_lists_every_verb(argument, capsys):
  assert app.main([argument]) == 0
  said = capsys.readouterr().out
  for name, verb in app.VERBS.items():
    assert f'  {name} ' in said
    assert verb.help in said


@pytest.mark.parametrize('name', app.VERBS)
def test_every_verb_has_a_help_and_ends_with_0(name, capsys):
  with pytest.raises(SystemExit) as ended:
    app.main([name, '--help'])
  assert not ended.value.code
  assert f'usage: kd-jax {name} ' in capsys.readouterr().out


def test_an_unknown_verb_is_one_line(capsys):
  assert app.main(['trian']) == 2
  assert "unknown verb 'trian'; did you mean 'train'" in capsys.readouterr().err
  assert app.main([]) == 0  # the usage


def test_the_version_is_said(capsys):
  assert app.main(['--version']) == 0
  assert capsys.readouterr().out == 'kd_jax 0.1.0\n'


def listed(kind, capsys):
  """What `kd-jax list` prints, as names with their texts."""
  assert app.main(['list', kind]) == 0
  lines = capsys.readouterr().out.splitlines()
  return dict(line.split('  ', 1) for line in lines)


def test_methods_are_listed_with_what_they_do(capsys):
  rows = listed('methods', capsys)
  assert sorted(rows) == registry.names()
  assert all(text.strip().endswith('.') for text in rows.values())


def test_every_recipe_is_listed_as_config_takes_it(capsys):
  rows = listing.recipes()
  assert len(rows) == len({name for name, _ in rows}) > 70
  assert all(text for _, text in rows)
  for name, _ in rows[:3]:
    file, _, recipe = name.partition(':')
    assert config_lib.find(file)
    assert recipe


def test_every_key_is_listed_with_its_default(capsys):
  rows = listed('keys', capsys)
  assert len(rows) == len(config_lib.KEYS)
  assert 'config.batch_size=64' in rows
  assert "One of 'zero', 'reflect'." in rows['config.data.padding_mode="zero"']


def test_a_recipes_values_are_listed(capsys):
  assert app.main(['list', 'keys', 'ofd:imagenet_r152_r50']) == 0
  said = capsys.readouterr().out
  assert 'config.epochs=100 ' in said
  assert '"milestones": [29, 59, 89]' in said
  assert app.main(['list', 'keys', 'ofd:imagenet_r152_r5']) == 2
  assert "did you mean 'imagenet_r152_r50'" in capsys.readouterr().err


def test_data_sets_are_listed(capsys):
  assert listed('data', capsys).keys() == data.SETS.keys()


def test_networks_are_listed_with_their_cost(capsys):
  assert app.main(['list', 'networks', 'resnet8']) == 0
  assert 'resnet8 ' in capsys.readouterr().out
  assert app.main(['list', 'networks', 'resnet7']) == 2
  assert 'did you mean' in capsys.readouterr().err
  assert 'resnet8' in models.NETWORKS


def test_an_unknown_kind_is_one_line(capsys):
  assert app.main(['list', 'recipe']) == 2
  assert "did you mean 'recipes'" in capsys.readouterr().err
  assert app.main(['list', 'keys', 'kd', 'more']) == 2


def test_whoever_reads_may_stop_early():
  ended = children.run(
    [
      'bash',
      '-c',
      f'{sys.executable} -m kd_jax list keys | head -1; '
      'exit "${PIPESTATUS[0]}"',
    ]
  )
  assert ended.returncode == 0
  assert ended.stdout.startswith('config.recipe=')
  assert not ended.stderr

"""What is uploaded to the Hub, and what is said where that fails."""

import sys
import types
from typing import ClassVar

import pytest

from kd_jax import errors
from kd_jax.cli import export
from kd_jax.export import hub
from tests import finished

TOKEN = 'hf_secret'


class AnswerError(Exception):
  """An answer of a server that is an error."""

  def __init__(self, status):
    super().__init__(f'Authorization: Bearer {TOKEN}')
    self.response = types.SimpleNamespace(status_code=status)


class Api:
  """Stands in for HfApi; `answers` are errors to raise, by method."""

  answers: ClassVar[dict] = {}
  uploaded: ClassVar[list] = []

  def repo_info(self, name):
    if 'repo_info' in self.answers:
      raise self.answers['repo_info']

  def upload_folder(self, **arguments):
    if 'upload_folder' in self.answers:
      raise self.answers['upload_folder']
    names = sorted(path.name for path in arguments['folder_path'].iterdir())
    self.uploaded.append((arguments['repo_id'], names))


@pytest.fixture
def api(monkeypatch):
  """Puts the stand-in in the place of huggingface_hub."""
  made = type('Stand', (Api,), {'answers': {}, 'uploaded': []})
  module = types.SimpleNamespace(HfApi=made, get_token=lambda: TOKEN)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', module)
  return made


def test_an_export_is_uploaded_as_it_lies(api, tmp_path, capsys):
  out = tmp_path / 'out'
  run = str(finished.places() / 'kd')
  assert export.main([run, str(out), '--hub', 'me/net']) == 0
  names = sorted(path.name for path in out.iterdir())
  assert api.uploaded == [('me/net', names)]
  said = capsys.readouterr()
  assert said.out.endswith('is at the Hub: me/net\n')
  assert TOKEN not in said.out + said.err
  api.answers['upload_folder'] = AnswerError(403)
  with pytest.raises(errors.RunError, match='was not uploaded: the token may'):
    hub.upload(out, 'me/net')


@pytest.mark.parametrize(
  ('answer', 'said'),
  [
    (AnswerError(404), r'no repository me/net: `hf repos create'),
    (AnswerError(401), r'token is wrong, or there is no repository'),
    (AnswerError(500), r'refuses \(status 500'),
    (
      ConnectionError(f'Bearer {TOKEN}'),
      r'can be used \(ConnectionError\); see to the network',
    ),
  ],
)
def test_what_the_hub_answers_is_one_line_without_the_token(api, answer, said):
  api.answers['repo_info'] = answer
  with pytest.raises(errors.UsageError, match=said) as caught:
    hub.check('me/net')
  assert TOKEN not in str(caught.value)


def test_without_a_token_or_the_library_the_cure_is_said(api, monkeypatch):
  monkeypatch.setattr(sys.modules['huggingface_hub'], 'get_token', lambda: None)
  with pytest.raises(errors.UsageError, match='hf auth login'):
    hub.check('me/net')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(errors.UsageError, match=r"pip install 'kd_jax\[hub\]'"):
    hub.check('me/net')


@pytest.mark.parametrize(
  'name', ['net', 'a/b/c', 'me/', 'me/n t', 'https://x/y']
)
def test_a_repository_has_an_owner_and_a_name(name, api):
  with pytest.raises(errors.UsageError, match=r'^hub=.*OWNER/NAME'):
    hub.check(name)

import pytest

from tests import attacks

QUICK = [a for a in attacks.everything().values() if a.quick]


@pytest.mark.parametrize('attack', QUICK, ids=lambda attack: attack.name)
def test_an_attack_does_no_harm(attack, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  attack.run(tmp_path)

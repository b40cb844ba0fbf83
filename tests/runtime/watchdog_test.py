"""The watchdog of a run that waits for others."""

import time

from kd_jax.runtime import watchdog
from tests import children


def test_it_rests_until_the_next_beat(monkeypatch):
  ended = []
  monkeypatch.setattr(watchdog.os, '_exit', ended.append)
  monkeypatch.setattr(watchdog.Watchdog, '_speak', lambda self, line: None)
  with watchdog.Watchdog(0.04) as dog:
    dog.rest()
    time.sleep(0.2)
    assert ended == []
    dog.beat('its turn came')
    children.until(lambda: ended)
  assert set(ended) == {watchdog.EXIT_CODE}

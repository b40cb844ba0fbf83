"""The quick part of the fault drill."""

import pytest

from tests.training import fault_drill


@pytest.fixture(scope='module')
def drill(tmp_path_factory):
  home = tmp_path_factory.mktemp('drill') / 'home'
  # These rows need neither to be noticed; on a busy machine both come late.
  return fault_drill.Drill(home, heartbeat_s=100, watchdog_s=600)


@pytest.mark.drill
@pytest.mark.parametrize('row', fault_drill.QUICK, ids=fault_drill.Row.text)
def test_a_harmed_run_ends_bit_for_bit_the_same(drill, row):
  result = drill.run(fault_drill.QUICK.index(row), row)
  assert not result.wrong


@pytest.mark.drill
def test_a_row_whose_moment_is_never_met_fails(drill):
  row = fault_drill.QUICK[0]._replace(moment='run/nowhere')
  assert 'in no trace' in drill.run(99, row).wrong


def test_every_row_is_its_own():
  texts = [row.text() for row in fault_drill.rows()]
  assert len(texts) >= 30
  assert len(set(texts)) == len(texts)

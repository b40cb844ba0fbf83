"""The checks that run on a change are those of .ci/run, all of them."""

import pathlib
import re

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
SCRIPT = ROOT / '.ci/run'

pytestmark = pytest.mark.skipif(
  not SCRIPT.exists(), reason='only a checkout has .ci/run'
)


def default_parts():
  """The parts that .ci/run has where none is named."""
  return re.search(r'\|\| parts=\((.*)\)', SCRIPT.read_text())[1].split()


def test_the_workflow_runs_each_part_once():
  workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
  (job,) = workflow['jobs'].values()
  runs = job['strategy']['matrix']['include']
  assert [run['part'] for run in runs] == default_parts()


def test_the_head_of_the_script_says_what_each_part_is():
  head = SCRIPT.read_text().split('set -euo pipefail')[0]
  assert re.findall(r'^#   (\w+)  ', head, re.MULTILINE) == default_parts()


def test_hooks_before_a_commit_use_the_tools_of_the_environment():
  before = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
  hooks = [hook for repo in before['repos'] for hook in repo['hooks']]
  assert hooks
  assert {hook['language'] for hook in hooks} == {'system'}

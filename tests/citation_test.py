"""CITATION.cff says what the package says of itself."""

import pathlib
import tomllib

import yaml

from kd_jax import version

ROOT = pathlib.Path(__file__).parent.parent
CITATION = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def test_the_citation_has_what_its_format_requires():
  assert CITATION['cff-version'] == '1.2.0'
  assert CITATION['message']
  assert CITATION['authors'] == [{'name': 'The kd_jax authors'}]


def test_the_citation_is_of_this_version():
  assert CITATION['version'] == version.__version__


def test_the_citation_names_the_package_and_its_license():
  assert CITATION['title'] == PROJECT['name']
  assert CITATION['license'] == PROJECT['license']

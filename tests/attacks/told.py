"""What attacks have in common: how a refusal must be told."""

import threading
import unicodedata

from kd_jax import errors

_HIDDEN = {'Cc', 'Cf', 'Cs', 'Zl', 'Zp'}
# Names that a stranger may choose, by what they do to a terminal.
NAMES = {
  'colour': '\x1b[31mred\x1b[0m',
  'title': '\x1b]0;owned\x07title',
  'clear': '\x1b[2J\x1b[Hcleared',
  'line feed': 'a\nkd_jax: all is well',
  'return': 'wrong\rright',
  'tab': 'a\tdog\t99.99%',
  'backspace': 'evil\x08\x08\x08\x08good',
  'direction': 'photo\u202egnp.exe',
  'isolate': 'a\u2066b\u2069',
  'no width': 'ad\u200bmin',
  'c1': '\x9b31mred',
  'next line': 'a\x85b',
  'separator': 'a\u2028kd_jax: fine',
  'half a pair': 'a\udcffb',
}
LEGITIMATE = (
  'café',
  'cafe\u0301',
  '猫 の 写真',
  'two words',
  "o'clock",
  'Ünïcode',
)


def plain(text):
  """Asserts that a text has nothing that moves, hides or ends a line."""
  hidden = [c for c in text if unicodedata.category(c) in _HIDDEN]
  assert not hidden, f'{hidden[0]!r} reaches the terminal: {text[:200]!r}'
  assert len(text) <= 5000, f'a line of {len(text)} characters'


def refused(call, *words):
  """Calls a function, which must refuse in one plain line with these words."""
  try:
    call()
  except errors.UsageError as error:
    said = str(error)
  else:
    raise AssertionError('it was taken')
  plain(said)
  missing = [word for word in words if word not in said]
  assert not missing, f'{missing} not in {said!r}'
  return said


def in_time(call, seconds):
  """Returns what a function returns or raises, and fails if it takes longer."""
  outcome = []

  def run():
    try:
      outcome.append((call(), None))
    except Exception as error:
      outcome.append((None, error))

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(seconds)
  assert outcome, f'it still runs after {seconds} s'
  ((value, error),) = outcome
  if error:
    raise error
  return value

"""Servers that send without end, hardly anything, or something else."""

import base64
import contextlib
import hashlib
import http.server
import os
import pathlib
import re
import ssl
import threading
import time

from etils import epath

from kd_jax.runtime import downloads
from tests.attacks import attack, told

BODY = bytes(range(256)) * 20
LENGTH = f'Content-Length: {len(BODY)}\r\n'
CERTIFICATE = pathlib.Path(__file__).with_name('loopback.pem')
OK = 'HTTP/1.1 200 OK\r\n'
FAST = {
  'silence_s': 0.3,
  'window_s': 0.25,
  'least': 1000,
  'deadline_s': 0.6,
  'most': 100_000,
  'pause_s': 0.01,
  'longest_pause_s': 0.05,
  'progress_s': 0.1,
}


class Server:
  """A server on loopback whose answers are what `answer` writes.

  Args:
    answer: A function of this server, a handler, and the number of the request.
    secure: Whether it speaks TLS.
  """

  def __init__(self, answer, secure=False):
    self.over, self.asked = threading.Event(), []
    server = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        server.asked.append((self.path, dict(self.headers)))
        self.close_connection = True
        with contextlib.suppress(OSError):
          answer(server, self.wfile, len(server.asked))
          self.wfile.flush()

      def log_message(self, *_):
        pass

    class Quiet(http.server.ThreadingHTTPServer):
      daemon_threads = True

      def handle_error(self, *_):
        pass

    self._http = Quiet(('127.0.0.1', 0), Handler)
    if secure:
      context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
      context.load_cert_chain(CERTIFICATE)
      self._http.socket = context.wrap_socket(
        self._http.socket, server_side=True
      )
    self.host = f'127.0.0.1:{self._http.server_port}'
    self.url = f'http{"s" if secure else ""}://{self.host}/file.pth'

  def __enter__(self):
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.01,)
    )
    self._thread.start()
    return self

  def __exit__(self, *_):
    self.over.set()
    self._http.shutdown()
    self._thread.join()
    self._http.server_close()


def fetch(url, place, size=0, body=BODY, seconds=2.0):
  """Fetches a file as kd_jax does, and returns it with what was said."""
  lines, path = [], place / 'downloads/file.pth'
  digest = hashlib.sha256(body).hexdigest()
  wanted = downloads.Published(url, 'sha256', digest, size)
  limits = getattr(downloads, 'Limits', None)
  more = {'limits': limits(**FAST)} if limits else {}
  try:
    told.in_time(
      lambda: downloads.fetch(
        wanted, epath.Path(path), 'Cure.', lines.append, **more
      ),
      seconds,
    )
  finally:
    for line in lines:
      told.plain(line)
    assert not path.exists() or path.read_bytes() == body, (
      'a wrong file is kept'
    )
    kept = sum(p.stat().st_size for p in path.parent.glob('*'))
    assert kept < 3e6, f'{kept} bytes were written'
  return path.read_bytes(), lines


def refused(answer, place, *words, size=0, seconds=2.0):
  """Fetches from a server whose answers must be refused in one line."""
  with Server(answer) as server:
    told.refused(
      lambda: fetch(server.url, place, size, seconds=seconds), *words
    )
    assert not list((place / 'downloads').glob('*.pth'))
    return server


def text(*parts):
  """Returns an answer of fixed text and bytes."""

  def answer(server, out, number):
    for part in parts:
      out.write(part if isinstance(part, bytes) else part.encode('latin1'))

  return answer


def slowly(start, each, pause=0.02):
  """Returns an answer that repeats a few bytes without end."""

  def answer(server, out, number):
    out.write(start.encode())
    for _ in range(400):
      if server.over.wait(pause):
        return
      out.write(each)
      out.flush()

  return answer


def endless(start, each=bytes(65_536)):
  """Returns an answer that sends as fast as it can, up to 20 MB."""

  def answer(server, out, number):
    out.write(start.encode())
    for _ in range(320):
      if server.over.is_set():
        return
      out.write(each)

  return answer


CHUNK = b'10000\r\n' + bytes(65_536) + b'\r\n'
CHUNKED = OK + 'Transfer-Encoding: chunked\r\n\r\n'


@attack(
  quick=True,
  cases={
    'body of a known size': (OK + '\r\n', bytes(65_536), len(BODY)),
    'body of no size': (OK + '\r\n', bytes(65_536), 0),
    'chunks of a known size': (CHUNKED, CHUNK, len(BODY)),
    'chunks of no size': (CHUNKED, CHUNK, 0),
    'more than is announced': (
      f'{OK}Content-Length: 20000000\r\n\r\n',
      bytes(65_536),
      len(BODY),
    ),
    'as long as it announces': (
      f'{OK}Content-Length: 20000000\r\n\r\n',
      bytes(65_536),
      0,
    ),
  },
)
def endless_body(place, case):
  """It is not written without bound."""
  start, each, size = case
  refused(endless(start, each), place, 'cannot download', size=size)


@attack(
  quick=True,
  cases={
    'body': (OK + LENGTH + '\r\n', b'x'),
    'body of no size': (OK + '\r\n', b'x'),
    'chunks': (CHUNKED, b'1\r\nx\r\n'),
    'sizes of chunks': (CHUNKED, b'0'),
    'headers': (OK, b'a: b\r\n'),
    'a header': (OK + 'a: ', b'b'),
    'status': ('HTTP/1.1 200 ', b'O'),
    'answers that go on': ('', b'HTTP/1.1 100 Continue\r\n\r\n'),
    'trailers': (CHUNKED + '1\r\nx\r\n0\r\n', b'a: b\r\n'),
  },
)
def drip(place, case):
  """A few bytes a second are not waited for without end."""
  refused(slowly(*case), place, 'cannot download')


@attack(
  quick=True, cases={'nothing': '', 'headers alone': OK + LENGTH + '\r\n'}
)
def silence(place, case):
  """A server that says nothing more is given up."""

  def answer(server, out, number):
    out.write(case.encode())
    out.flush()
    server.over.wait(5)

  refused(answer, place, 'cannot download')


@attack(quick=True)
def short_stall(place):
  """A pause in the middle does no harm, and the progress is said."""

  def answer(server, out, number):
    out.write((OK + LENGTH + '\r\n').encode())
    out.write(BODY[:3000])
    out.flush()
    server.over.wait(0.15)
    out.write(BODY[3000:])

  with Server(answer) as server:
    got, lines = fetch(server.url, place)
  assert got == BODY
  assert len(lines) >= 1
  assert server.asked[0][0] == '/file.pth'


@attack(
  quick=True,
  cases={
    'letters': 'Content-Length: abc\r\n',
    'negative': 'Content-Length: -5\r\n',
    'two': 'Content-Length: 5\r\nContent-Length: 6\r\n',
    'empty': 'Content-Length: \r\n',
    'long': f'Content-Length: {"9" * 5000}\r\n',
    'hexadecimal': 'Content-Length: 0x10\r\n',
    'a sign': 'Content-Length: +5\r\n',
    'fraction': 'Content-Length: 5.5\r\n',
    'a petabyte': f'Content-Length: {10**15}\r\n',
    'less than published': 'Content-Length: 5\r\n',
  },
)
def content_length(place, case):
  """A length that is none, or that cannot be, is refused before the body."""
  size = len(BODY) if case == 'Content-Length: 5\r\n' else 0
  refused(text(OK + case + '\r\n', BODY[:5]), place, size=size)


@attack(
  quick=True,
  cases={
    'short body': text(OK + LENGTH + '\r\n', BODY[:100]),
    'short chunk': text(CHUNKED + 'ff\r\n', BODY[:100]),
    'size of a chunk': text(CHUNKED + 'zz\r\n', BODY),
    'no HTTP': text('SSH-2.0-OpenSSH\r\n\r\n'),
    'nothing': text(''),
    'no content': text('HTTP/1.1 204 No Content\r\n\r\n'),
    'another body': text(OK + '\r\n', b'<html>sign in</html>'),
    'compressed': text(OK + 'Content-Encoding: gzip\r\n\r\n', b'\x1f\x8b\x08'),
    'many headers': text(OK, 'a: b\r\n' * 1000, '\r\n'),
    'a long header': text(OK, 'a: ', 'b' * 100_000, '\r\n\r\n'),
    'a status of letters': text('HTTP/1.1 abc OK\r\n\r\n'),
    'a part that was not asked for': text(
      'HTTP/1.1 206 P\r\nContent-Range: bytes 99-\r\n\r\n', BODY[99:]
    ),
  },
)
def broken(place, case):
  """What is no whole file is refused, and nothing passes for the file."""
  refused(case, place)


@attack(quick=True, cases=[500, 502, 503, 504, 429])
def busy_once(place, case):
  """A server that is busy is asked again."""

  def answer(server, out, number):
    busy = f'HTTP/1.1 {case} Busy\r\nContent-Length: 0\r\n\r\n'
    text(*([busy] if number == 1 else [OK + LENGTH + '\r\n', BODY]))(
      server, out, number
    )

  with Server(answer) as server:
    got, _ = fetch(server.url, place)
  assert got == BODY


@attack(
  quick=True,
  cases=['', '0', '999999999', '-1', 'soon', 'Fri, 31 Dec 9999 23:59:59 GMT'],
)
def busy_always(place, case):
  """It is asked a few times, however long it says to wait, and given up."""
  after = f'Retry-After: {case}\r\n' if case else ''
  server = refused(
    text(f'HTTP/1.1 503 Busy\r\n{after}Content-Length: 0\r\n\r\n'),
    place,
    'Busy',
  )
  assert 2 <= len(server.asked) <= 10


@attack(quick=True, cases=[400, 401, 403, 404, 410])
def gone(place, case):
  """Where asking again is no use, it is asked once."""
  server = refused(text(f'HTTP/1.1 {case} No\r\n\r\n'), place, 'No')
  assert len(server.asked) == 1


@attack(
  quick=True,
  cases={name: name for name in ('colour', 'title', 'c1', 'tab', 'long')},
)
def reason(place, case):
  """A server's reason cannot write to the terminal."""
  said = {**told.NAMES, 'long': 'x' * 60_000}[case]
  refused(text(f'HTTP/1.1 404 {said}\r\n\r\n'), place, 'cannot download')


def redirect(to, code=302):
  """Returns an answer that points elsewhere."""
  return text(f'HTTP/1.1 {code} Found\r\nLocation: {to}\r\n\r\n')


@attack(
  quick=True,
  cases=[
    'file:///etc/passwd',
    'ftp://127.0.0.1/x.pth',
    'gopher://127.0.0.1/x.pth',
    'data:,abc',
    'http://[',
    'http://127.0.0.1:99999/',
    'http://127.0.0.1:abc/',
    'http:///x.pth',
    '/file.pth',
    'javascript:\x1b[2J',
  ],
)
def redirected(place, case):
  """Only http and https are followed, and not in a circle."""
  refused(redirect(case), place)


@attack(quick=True)
def redirected_to_http(place):
  """What was asked for by https is not taken by http."""

  def answer(server, out, number):
    text(OK + LENGTH + '\r\n', BODY)(server, out, number)

  with (
    Server(answer) as plain,
    Server(redirect(f'{plain.url}?token=secret'), secure=True) as secure,
  ):
    os.environ['SSL_CERT_FILE'] = str(CERTIFICATE)
    try:
      said = told.refused(lambda: fetch(secure.url, place))
    finally:
      del os.environ['SSL_CERT_FILE']
  assert 'secret' not in said
  assert 'http' in said
  assert not plain.asked


@attack(quick=True)
def redirected_within_https(place):
  """From https to https a redirect is followed."""

  def answer(server, out, number):
    go = redirect('/other.pth')
    here = text(OK + LENGTH + '\r\n', BODY)
    (go if number == 1 else here)(server, out, number)

  with Server(answer, secure=True) as server:
    os.environ['SSL_CERT_FILE'] = str(CERTIFICATE)
    try:
      got, _ = fetch(server.url, place)
    finally:
      del os.environ['SSL_CERT_FILE']
  assert got == BODY


@attack(quick=True)
def unknown_certificate(place):
  """A certificate that nobody signed is refused."""
  with Server(text(OK), secure=True) as server:
    told.refused(lambda: fetch(server.url, place), 'CERTIFICATE')


SECRETS = ('me:hunter2@', 'me:hun/ter2@', 'hunter2@')


@attack(
  quick=True,
  cases=[
    '?token=hunter2',
    '?X-Amz-Signature=hunter2&X-Amz-Date=1',
    '?sig=hunter2&se=1',
    '?hunter2',
    '#hunter2',
    *SECRETS,
  ],
)
def token(place, case):
  """A token in a URL is in no message and no line of progress."""
  with Server(text('HTTP/1.1 403 Forbidden\r\n\r\n')) as server:
    is_login = case in SECRETS
    url = server.url + ('' if is_login else case)
    url = url.replace('//', f'//{case}') if is_login else url
    lines = []
    wanted = downloads.Published(url, 'sha256', '0' * 64)
    said = told.refused(
      lambda: downloads.fetch(
        wanted, epath.Path(place / 'x'), 'Cure.', lines.append
      )
    )
  assert 'ter2' not in said + str(lines)


@attack(quick=True)
def token_of_the_path(place):
  """User and password go to their own server, and not where it redirects."""
  with (
    Server(text(OK + LENGTH + '\r\n', BODY)) as other,
    Server(redirect(other.url)) as server,
  ):
    got, _ = fetch(server.url.replace('//', '//me:hunter2@'), place)
  assert got == BODY
  code = base64.b64encode(b'me:hunter2').decode()
  assert server.asked[0][1]['Authorization'] == f'Basic {code}'
  assert 'Authorization' not in other.asked[0][1]


@attack(
  quick=True,
  cases={
    'no host': 'http:///x.pth',
    'no host but a port': 'http://:80/x.pth',
    'a port out of range': 'http://127.0.0.1:99999/x.pth',
    'a port of letters': 'http://127.0.0.1:abc/x.pth',
    'half an address': 'http://[::1/x.pth',
    'a space': 'http://127.0.0.1:1/a b.pth',
    'a space before': ' http://127.0.0.1:1/a.pth',
    'a line feed': 'http://127.0.0.1:1/a.pth\nX: y',
    'a header': 'http://127.0.0.1:1/a.pth HTTP/1.1\r\nX: y',
    'empty labels': 'http://a..b/x.pth',
    'a long label': f'http://{"a" * 70}.invalid/x.pth',
    'another scheme': 'ftp://127.0.0.1/x.pth',
    'a file': 'file:///etc/passwd',
    'invisible': 'http://127.0.0.1:1/\u202egnp.pth',
  },
)
def odd_url(place, case):
  """An odd URL is one line."""
  told.refused(lambda: fetch(case, place), 'cannot download')


@attack(quick=True, cases={'é': '/é.pth', 'a query': '/x.pth?n=é'})
def other_letters(place, case):
  """Letters that are not ASCII are encoded."""
  with Server(text(OK + LENGTH + '\r\n', BODY)) as server:
    got, _ = fetch(f'http://{server.host}{case}', place)
  assert got == BODY
  assert '%C3%A9' in server.asked[0][0]


def part(place, content):
  """Writes the part of a file that an earlier call is to have left."""
  path = place / 'downloads/file.pth.part'
  path.parent.mkdir()
  path.write_bytes(content)
  return path


@attack(
  quick=True,
  cases={
    'goes on': (206, 'bytes 1000-5119/5120', 1000),
    'begins again': (200, None, 0),
    'says no range': (206, None, 1000),
  },
)
def resumed(place, case):
  """A download goes on where it broke off, or begins again."""
  code, span, first = case
  part(place, BODY[:1000])
  span = f'Content-Range: {span}\r\n' if span else ''
  with Server(text(f'HTTP/1.1 {code} P\r\n{span}\r\n', BODY[first:])) as server:
    got, _ = fetch(server.url, place)
  assert got == BODY
  assert server.asked[0][1]['Range'] == 'bytes=1000-'


@attack(
  quick=True,
  cases={
    'other bytes': b'x' * 1000,
    'too many': b'x' * 9000,
    'as many': b'x' * len(BODY),
  },
)
def wrong_part(place, case):
  """A part of another file is refused once, and then the file is fetched."""
  part(place, case)

  def answer(server, out, number):
    asked = server.asked[-1][1].get('Range', 'bytes=0-')
    first = int(re.findall('[0-9]+', asked)[0])
    if first >= len(BODY):
      text('HTTP/1.1 416 No\r\n\r\n')(server, out, number)
    else:
      code = 206 if first else 200
      text(f'HTTP/1.1 {code} P\r\n\r\n', BODY[first:])(server, out, number)

  with Server(answer) as server:
    told.refused(lambda: fetch(server.url, place, len(BODY)))
    got, _ = fetch(server.url, place, len(BODY))
  assert got == BODY


@attack(quick=True)
def wrong_range(place):
  """Bytes from elsewhere are not appended."""
  left = part(place, BODY[:1000])
  head = 'HTTP/1.1 206 P\r\nContent-Range: bytes 7-\r\n\r\n'
  with Server(text(head, BODY[7:])) as server:
    told.refused(lambda: fetch(server.url, place))
  assert not left.exists()


@attack(quick=True)
def deadline(place):
  """A server that is just fast enough does not go on for ever."""

  def answer(server, out, number):
    out.write((OK + '\r\n').encode())
    for _ in range(300):
      if server.over.wait(0.02):
        return
      out.write(bytes(200))
      out.flush()

  began = time.monotonic()
  refused(answer, place, 'cannot download')
  assert time.monotonic() - began < 2

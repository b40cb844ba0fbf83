"""One answer of a server by http or https, bounded in bytes and in time."""

import base64
from collections.abc import Callable, Iterator
import contextlib
import email.utils
import http.client
import re
import socket
import threading
import time
from typing import Any, NamedTuple
from urllib import parse
import urllib.error
import urllib.request

from etils import epath

from kd_jax import errors

_BLOCK = 1 << 20  # bytes
_AGAIN_S = 0.05  # seconds until another connection of the same try is cut
_BEYOND = 416  # HTTP's 'Range Not Satisfiable'
_BUSY = (429, 500, 502, 503, 504)  # answers after which a server is asked again
_KEPT = "/%:@!$&'()*+,;=~-._"  # of a URL's path; other characters are encoded


class Limits(NamedTuple):
  """What a download may take.

  Attributes:
    silence_s: The most seconds without a byte.
    window_s: The seconds over which the speed is measured, so that a pause of
      some seconds is none of its business.
    least: The least bytes a second.
    deadline_s: The most seconds of all; the same command goes on afterwards.
    most: The most bytes of a file whose size is not published.
    pause_s: The seconds before a busy server is asked again, unless it says how
      long; they double each time.
    longest_pause_s: The most seconds of such a pause, whatever a server says.
    progress_s: The seconds between two lines of progress.
  """

  silence_s: float = 20.0
  window_s: float = 60.0
  least: int = 1024
  deadline_s: float = 6 * 3600.0
  most: int = 16 * 10**9
  pause_s: float = 1.0
  longest_pause_s: float = 60.0
  progress_s: float = 5.0


class Refused(Exception):  # noqa: N818  (what is refused is the server's answer)
  """An answer that is not taken; the message says why."""


class Other(Refused):
  """An answer that cannot be the wanted file, nor continue it."""


class Busy(Exception):  # noqa: N818  (the server's state)
  """A server that may answer later.

  Attributes:
    after_s: The seconds that it asks for; None if it says nothing.
  """

  def __init__(self, message: str, after_s: float | None):
    super().__init__(message)
    self.after_s = after_s


def address(url: str) -> tuple[str, str]:
  """Returns a URL in ASCII without user and password, and these as a header.

  Args:
    url: The URL; 'https://user:password@host/path' asks by HTTP's Basic scheme.

  Returns:
    The URL, and the value of the header 'Authorization', or ''.

  Raises:
    Refused: It is none of http or https, or wrong.
  """
  if re.search(r'[\x00-\x20\x7f]', url):
    raise Refused('the URL has a space or a control character (a space is %20)')
  try:
    parts = parse.urlsplit(url)
    host, port = (parts.hostname or '').encode('idna').decode(), parts.port
  except ValueError as error:  # its text may hold a password
    raise Refused('the host or the port in the URL is wrong') from error
  if parts.scheme not in ('http', 'https'):
    raise Refused(f'{parts.scheme!r} is neither http nor https')
  if not host:
    raise Refused('the URL names no host')
  place = (f'[{host}]' if ':' in host else host) + (f':{port}' if port else '')
  path, query = parse.quote(parts.path, _KEPT), parse.quote(parts.query, _KEPT)
  login = ''
  if parts.username is not None:
    pair = f'{parts.username}:{parts.password or ""}'
    code = base64.b64encode(parse.unquote_to_bytes(pair))
    login = f'Basic {code.decode()}'
  return parse.urlunsplit((parts.scheme, place, path, query, '')), login


class _Watch:
  """Cuts connections of a server that is too slow, whatever it is sending."""

  def __init__(self, limits: Limits, left_s: float):
    self.received = 0  # bytes of the file
    self.why = ''  # it was cut
    self._limits, self._end = limits, time.monotonic() + left_s
    self._sockets: list[socket.socket] = []
    self._over = threading.Event()

  def add(self, connection: socket.socket) -> None:
    """Takes a connection that was opened."""
    self._sockets.append(connection.dup())  # of which TLS takes the original

  @contextlib.contextmanager
  def watching(self) -> Iterator[None]:
    """Watches within the context; raises Refused if it cut a connection."""
    thread = threading.Thread(target=self._run, daemon=True)
    thread.start()
    try:
      yield
    except (OSError, http.client.HTTPException) as error:
      if self.why:
        raise Refused(self.why) from error
      raise
    finally:
      self._over.set()
      thread.join()
      for connection in self._sockets:
        connection.close()
    if self.why:
      raise Refused(self.why)

  def _run(self) -> None:
    window, least, before = self._limits.window_s, self._limits.least, 0
    while not self._over.wait(
      _AGAIN_S
      if self.why
      else max(0.0, min(window, self._end - time.monotonic()))
    ):
      received, before = self.received - before, self.received
      if time.monotonic() >= self._end:
        self.why = f'it took more than {self._limits.deadline_s / 3600:.3g} h'
      elif not self.why and received < least * window:
        self.why = (
          f'{received} bytes came in {window:.3g} s, and {least} a second are '
          'the least'
        )
      for connection in self._sockets if self.why else ():
        with contextlib.suppress(OSError):  # the other side may have closed it
          connection.shutdown(socket.SHUT_RDWR)


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
  """Returns what opens URLs of http and https alone, under a watch."""

  class Seen:
    """Shows a connection's socket to the watch, before TLS begins."""

    _sock: Any = None

    @property
    def sock(self) -> Any:
      return self._sock

    @sock.setter
    def sock(self, value: Any) -> None:
      self._sock = value
      if type(value) is socket.socket:
        watch.add(value)

  class Plain(Seen, http.client.HTTPConnection):
    """A connection of http."""

  class Secure(Seen, http.client.HTTPSConnection):
    """A connection of https, with the certificates of the machine."""

  class Http(urllib.request.HTTPHandler):
    def http_open(self, req: Any) -> Any:
      return self.do_open(Plain, req)

  class Https(urllib.request.HTTPSHandler):
    def https_open(self, req: Any) -> Any:
      return self.do_open(Secure, req)

  return urllib.request.build_opener(Http, Https, _Redirects)


class _Redirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects from http to http or https, and from https to https."""

  def http_error_302(
    self, req: Any, fp: Any, code: Any, msg: Any, headers: Any
  ) -> Any:
    """Returns the answer of another URL, or closes the connection."""
    try:
      return super().http_error_302(req, fp, code, msg, headers)
    except (Refused, ValueError):  # an HTTPError holds the connection itself
      fp.close()
      raise

  http_error_301 = http_error_303 = http_error_302
  http_error_307 = http_error_308 = http_error_302

  def redirect_request(
    self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
  ) -> Any:
    """Returns the next request.

    Raises:
      Refused: Its URL is wrong, or less safe than this one.
    """
    url, _ = address(newurl)
    if req.type == 'https' and not url.startswith('https:'):
      raise Refused(f'it redirects from https to {errors.public(url)}')
    return super().redirect_request(req, fp, code, msg, headers, url)


def get(
  url: str,
  part: epath.Path,
  *,
  size: int = 0,
  say: Callable[[str], None],
  limits: Limits,
  left_s: float,
) -> bool:
  """Continues a file with what a server gives.

  Args:
    url: The URL.
    part: The file, which may hold the first bytes of it already.
    size: The size of the whole in bytes; 0 if it is not known.
    say: Called with lines about the progress.
    limits: What the download may take.
    left_s: The seconds until its deadline.

  Returns:
    Whether the file is complete, as far as the server and `size` tell.

  Raises:
    Refused: The answer is not taken.
    Busy: The server asks to come back later.
    OSError: The server cannot be reached, or the file cannot be written.
    HTTPException: The answer breaks off or is none of HTTP.
  """
  target, login = address(url)
  done = part.stat().length if part.exists() else 0
  if size and done >= size:
    return True
  request = urllib.request.Request(target)
  if login:
    request.add_unredirected_header('Authorization', login)
  if done:
    request.add_header('Range', f'bytes={done}-')
  watch = _Watch(limits, left_s)
  with watch.watching():
    try:
      response = _opener(watch).open(request, timeout=limits.silence_s)
    except urllib.error.HTTPError as error:
      with error:  # it holds the connection
        if error.code == _BEYOND and done:
          if not size:
            return True  # which the checksum tells
          raise Other('it has fewer bytes than are here') from error
        if error.code in _BUSY:
          raise Busy(_reason(error), _after(error.headers)) from error
        raise Refused(_reason(error)) from error
    except ValueError as error:
      raise Refused('it redirects to a wrong URL') from error
    with response:
      start, most, promised = _extent(response, done, size, limits)
      progress = _progress(promised, say, limits.progress_s)
      with part.open('ab' if start else 'wb') as file:
        done = _copied(response, file, start, most, watch, progress)
  return done >= (promised or 0)


def _reason(error: urllib.error.HTTPError) -> str:
  return f'HTTP {error.code} {errors.shown(str(error.reason).strip())}'


def _after(headers: Any) -> float | None:
  """Returns the seconds of a header 'Retry-After'; None if there are none."""
  text = str(headers.get('Retry-After', '')).strip()
  if re.fullmatch('[0-9]{1,9}', text):
    return float(text)
  try:
    moment = email.utils.parsedate_to_datetime(text)
    return max(0.0, moment.timestamp() - time.time())
  except (OverflowError, TypeError, ValueError):
    return None


def _extent(
  response: Any, done: int, size: int, limits: Limits
) -> tuple[int, int, int | None]:
  """Returns where an answer starts, its most bytes, and where it should end.

  Raises:
    Refused: Its headers contradict themselves or what is known.
  """
  if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
    raise Refused(f'HTTP {response.status}, which brings no file')
  start = done if response.status == http.client.PARTIAL_CONTENT else 0
  span = response.headers.get('Content-Range', f'bytes {start}-')
  if start and not span.startswith(f'bytes {start}-'):
    raise Other(f'it was asked for byte {start} on, and gives {span!r}')
  promised = size or None
  lengths = {*response.headers.get_all('Content-Length', ())}
  if lengths and 'chunked' not in response.headers.get('Transfer-Encoding', ''):
    if len(lengths) > 1 or not re.fullmatch('[0-9]{1,18}', max(lengths)):
      said = ', '.join(sorted(lengths))
      raise Refused(f'its Content-Length {said!r} is no number of bytes')
    promised = start + int(lengths.pop())
    if size and promised != size:
      raise Other(f'the server has {promised} bytes, and not {size}')
  most = promised or limits.most
  if not size and most > limits.most:
    raise Refused(
      f'the server has {most} bytes, and {limits.most} are the most that are '
      'fetched'
    )
  return start, most, promised


def _progress(
  promised: int | None, say: Callable[[str], None], every_s: float
) -> Callable[[int], None]:
  """Returns a function of the bytes that are there, which says them in time."""
  of = f' of {promised / 1e6:.0f}' if promised else ''
  said_at = time.monotonic()

  def progress(done: int) -> None:
    nonlocal said_at
    if time.monotonic() - said_at > every_s:
      said_at = time.monotonic()
      say(f'  {done / 1e6:.0f}{of} MB')

  return progress


def _copied(
  response: Any,
  file: Any,
  done: int,
  most: int,
  watch: _Watch,
  progress: Callable[[int], None],
) -> int:
  """Copies an answer into a file, and returns the bytes of the file."""
  while block := response.read1(_BLOCK):
    done += len(block)
    watch.received += len(block)
    if done > most:
      raise Other(f'it sends more than {most} bytes')
    file.write(block)
    progress(done)
  return done

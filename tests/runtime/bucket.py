"""A Google Cloud Storage server for tests, which enforces preconditions.

It keeps objects in memory and implements the part of the JSON API that gcsfs
and TensorStore use. Every write makes a new generation. `ifGenerationMatch` and
`ifGenerationNotMatch` are evaluated under one lock, so that of two writers with
the same condition one fails with 412, as in a real bucket.

  python -m tests.runtime.bucket 9023   # serves until it is killed
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import sys
import threading
import urllib.parse


class Server(http.server.ThreadingHTTPServer):
  """A server of all buckets on a port of this machine.

  Attributes:
    objects: (generation, bytes) by bucket and key.
    requests: The method and address of every request, in order.
    broken: Whether every request is answered with 400.
    deaf: Whether the next conditional write is done but answered with 503.
  """

  daemon_threads = True
  request_queue_size = 128

  def __init__(self, port=0):
    super().__init__(('127.0.0.1', port), _Handler)
    self.objects, self.requests, self.uploads = {}, [], {}
    self.connections = set()
    self.broken = self.deaf = False
    self.mutex, self.newest = threading.Lock(), 0

  @property
  def url(self):
    return f'http://127.0.0.1:{self.server_port}'

  def __enter__(self):
    threading.Thread(target=self.serve_forever, daemon=True).start()
    return self

  def __exit__(self, *_):
    self.shutdown()
    self.server_close()
    # A client keeps its connections. Those to this server would still be
    # answered by it after the next server has been given the same port.
    with self.mutex:
      for connection in self.connections:
        with contextlib.suppress(OSError):  # the client closed it
          connection.shutdown(socket.SHUT_RDWR)

  def process_request(self, request, client_address):
    with self.mutex:
      self.connections.add(request)
    super().process_request(request, client_address)

  def shutdown_request(self, request):
    with self.mutex:
      self.connections.discard(request)
    super().shutdown_request(request)

  def change(self, place, data, query):
    """Writes or deletes an object if its generation fulfils the condition.

    Args:
      place: The bucket and the key.
      data: The content; None deletes the object.
      query: The parameters of the request, with 'ifGenerationMatch' if
        conditional.

    Returns:
      Whether the condition was fulfilled.
    """
    with self.mutex:
      generation = self.objects.get(place, (0, b''))[0]
      if int(query.get('ifGenerationMatch', generation)) != generation:
        return False
      self.newest += 1
      if data is None:
        self.objects.pop(place, None)
      else:
        self.objects[place] = (self.newest, data)
      return True

  def resource(self, place):
    """Returns the JSON API's description of an object."""
    generation, data = self.objects[place]
    return {
      'kind': 'storage#object',
      'bucket': place[0],
      'name': place[1],
      'generation': str(generation),
      'metageneration': '1',
      'size': str(len(data)),
      'md5Hash': base64.b64encode(hashlib.md5(data).digest()).decode(),
      'updated': '2026-01-01T00:00:00.000Z',
      'timeCreated': '2026-01-01T00:00:00.000Z',
    }


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *_):
    pass

  def do_GET(self):
    address = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(address.query))
    body = self._body()
    self.server.requests.append((self.command, self.path))
    if self.server.broken:
      return self._answer(400, {'error': {'message': 'the server is broken'}})
    for pattern, method in _ROUTES:
      verb, _, path = pattern.partition(' ')
      match = re.fullmatch(path, address.path)
      if verb == self.command and match:
        names = [urllib.parse.unquote(group) for group in match.groups()]
        return method(self, body, *names)
    return self._answer(404)

  do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  (the base class's names)

  def _body(self):
    if self.headers.get('Transfer-Encoding') != 'chunked':
      return self.rfile.read(int(self.headers.get('Content-Length') or 0))
    parts = []
    while size := int(self.rfile.readline(), 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def _answer(self, code, body=b'', **headers):
    if not isinstance(body, bytes):
      body = json.dumps(body).encode()
      headers['Content-Type'] = 'application/json'
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name.replace('_', '-'), str(value))
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)

  def _bucket(self, _, name):
    self._answer(200, {'kind': 'storage#bucket', 'name': name})

  def _list(self, _, bucket):
    prefix, cut = self.query.get('prefix', ''), self.query.get('delimiter')
    low, high = self.query.get('startOffset', ''), self.query.get('endOffset')
    items, prefixes = [], set()
    with self.server.mutex:
      for place in sorted(self.server.objects):
        owner, key = place
        if owner != bucket or not key.startswith(prefix) or key < low:
          continue
        if high and key >= high:
          continue
        head, separator, _ = key[len(prefix) :].partition(cut or '\0')
        if separator:
          prefixes.add(prefix + head + cut)
        else:
          items.append(self.server.resource(place))
    self._answer(200, {'items': items, 'prefixes': sorted(prefixes)})

  def _read(self, _, *place):
    with self.server.mutex:
      if place not in self.server.objects:
        return self._answer(404)
      generation, data = self.server.objects[place]
      resource = self.server.resource(place)
    if self.query.get('ifGenerationNotMatch') == str(generation):
      return self._answer(304)
    if self.query.get('ifGenerationMatch', str(generation)) != str(generation):
      return self._answer(412)
    if self.query.get('alt') != 'media':
      return self._answer(200, resource)
    headers = {'x_goog_generation': generation}
    byte_range = re.fullmatch(
      r'bytes=(\d*)-(\d*)', self.headers.get('Range', '').strip()
    )
    if not byte_range:
      return self._answer(200, data, **headers)
    first, last = byte_range.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(len(data), int(last) + 1) if first and last else len(data)
    if start >= len(data):
      return self._answer(416)
    headers['Content_Range'] = f'bytes {start}-{end - 1}/{len(data)}'
    return self._answer(206, data[start:end], **headers)

  def _write(self, place, data):
    done = self.server.change(place, data, self.query)
    if done and self.server.deaf and 'ifGenerationMatch' in self.query:
      self.server.deaf = False
      return self._answer(503)
    if not done:
      return self._answer(412, {'error': {'message': 'conditionNotMet'}})
    return self._answer(200, self.server.resource(place))

  def _insert(self, body, bucket):
    kind = self.query['uploadType']
    if kind == 'media':
      return self._write((bucket, self.query['name']), body)
    if kind == 'multipart':
      boundary = self.headers['Content-Type'].split('boundary=')[1].strip('"')
      _, meta, content, _ = re.split(
        rb'(?:^|\r?\n)--' + boundary.encode() + rb'(?:--)?\s*?\n?', body
      )
      meta, content = (
        re.split(rb'\r?\n\r?\n', part, maxsplit=1)[1]
        for part in (meta, content)
      )
      return self._write((bucket, json.loads(meta)['name']), content)
    if 'upload_id' in self.query:
      return self._chunk(body, bucket)
    number = str(len(self.server.uploads))
    self.server.uploads[number] = bytearray()
    name = self.query.get('name') or json.loads(body)['name']
    query = urllib.parse.urlencode(
      {**self.query, 'name': name, 'upload_id': number}
    )
    path = self.path.partition('?')[0]
    return self._answer(200, Location=f'{self.server.url}{path}?{query}')

  def _chunk(self, body, bucket):
    data = self.server.uploads[self.query['upload_id']]
    data += body
    if self.headers['Content-Range'].endswith('/*'):
      return self._answer(308, Range=f'bytes=0-{len(data) - 1}')
    return self._write((bucket, self.query['name']), bytes(data))

  def _delete(self, _, *place):
    if place not in self.server.objects:
      return self._answer(404)
    done = self.server.change(place, None, self.query)
    return self._answer(204 if done else 412)

  def _copy(self, _, *places, move=False):
    source, target = tuple(places[:2]), tuple(places[-2:])
    if source not in self.server.objects:
      return self._answer(404)
    self.server.change(target, self.server.objects[source][1], {})
    if move:
      self.server.change(source, None, {})
      return self._answer(200, self.server.resource(target))
    resource = self.server.resource(target)
    return self._answer(200, {'done': True, 'resource': resource})

  def _move(self, body, bucket, key, new):
    self._copy(body, bucket, key, bucket, new, move=True)


_OBJECT = r'(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)'
_ROUTES = (
  (r'GET /storage/v1/b/([^/]+)', _Handler._bucket),
  (r'GET /storage/v1/b/([^/]+)/o', _Handler._list),
  (f'GET {_OBJECT}', _Handler._read),
  (f'DELETE {_OBJECT}', _Handler._delete),
  (f'POST {_OBJECT}/rewriteTo/b/([^/]+)/o/([^/]+)', _Handler._copy),
  (f'POST {_OBJECT}/moveTo/o/([^/]+)', _Handler._move),
  (r'POST /upload/storage/v1/b/([^/]+)/o', _Handler._insert),
  (r'PUT /upload/storage/v1/b/([^/]+)/o', _Handler._insert),
)


if __name__ == '__main__':
  Server(int(sys.argv[1])).serve_forever()

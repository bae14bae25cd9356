"""Downloads of the published weights from a hub that misbehaves.

The hub is on loopback and answers as the real one does: a redirect with the
commit, the size and the SHA-256 of the file, and the file from elsewhere.
"""

import hashlib
import http.server
import itertools
import multiprocessing
import os
import pathlib
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
import unittest.mock
import warnings

import numpy as np

from faults.scorecard import Row

TITLE = "Downloads"
PROMISE = (
    "`published_weights` returns the published file, bit for bit, or refuses\n"
    "in one line. What is refused does not stay in the cache: the next call,\n"
    "of a hub that is well, returns the published file."
)

VARIANT = "F0"
RIGHT = "right"
_WARNED = "right, with a warning"
_BYTES = 4 * 2**20
_PIECES = 32
_NOBODY = 65534
_LIMIT = 60  # Seconds for one call.


class Hub:
    """A hub on loopback with one file.

    Attributes:
        status: What it answers; 200 is well.
        body: What it sends in place of the file; a function of the file.
        drops: How often it closes the connection half-way.
        delay: Seconds before each of the pieces of the file.
        announced: What it says that the SHA-256 is, or `None` for nothing.
        sent: How often it sent the file.
    """

    def __init__(self, seed=0):
        self.content = np.random.default_rng(seed).bytes(_BYTES)
        self.reset()
        self._server = _Server(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever).start()

    def reset(self):
        self.status, self.drops, self.delay, self.sent = 200, 0, 0, 0
        self.body = lambda content: content
        self.announced = hashlib.sha256(self.content).hexdigest()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # Who asked was killed.


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        hub = self.hub
        if self.path.startswith("/cdn/"):
            return self._answer(200, {"Content-Length": len(hub.content)})
        if hub.status != 200:
            return self._answer(hub.status, {"Content-Length": 0})
        return self._answer(
            302,
            {
                # Another host: only what the hub's own says is followed.
                "Location": f"{hub.url}/cdn/file".replace(
                    "127.0.0.1", "localhost"
                ),
                "X-Repo-Commit": "c" * 40,
                "X-Linked-Size": len(hub.content),
                "X-Linked-ETag": f'"{hub.announced or "a-b"}"',
                "Content-Length": 0,
            },
        )

    def do_GET(self):
        hub = self.hub
        if not self.path.startswith("/cdn/"):
            return self.do_HEAD()
        data = hub.body(hub.content)
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers = {
                "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"
            }
        data = data[start:]
        headers = {"Content-Length": len(data), **(headers if wanted else {})}
        self._answer(206 if wanted else 200, headers)
        hub.sent += 1
        size = -(-len(data) // _PIECES)
        for index in range(_PIECES):
            time.sleep(hub.delay)
            if hub.drops and index == _PIECES // 2:
                hub.drops -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return None
            self.wfile.write(data[index * size : (index + 1) * size])
        return None

    def _answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()


def _client(connection, endpoint, cache, home, as_nobody, most, expected):
    """What came of one call, in a process of its own."""
    from huggingface_hub import constants

    from keras_nfnet.weights import published

    os.environ.update(KERAS_HOME=home, NO_PROXY="127.0.0.1,localhost")
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(
        constants.ENDPOINT, endpoint
    )
    if as_nobody and os.getuid() == 0:
        os.setuid(_NOBODY)
    if most:  # Files end here, as on a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with (
        unittest.mock.patch.multiple(
            constants,
            ENDPOINT=endpoint,
            HF_HUB_CACHE=cache,
            HUGGINGFACE_CO_URL_TEMPLATE=template,
        ),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        try:
            path = published.published_weights(VARIANT)
            # As every load does, before it reads the file.
            published.refuse_damaged(path)
        except ValueError as error:
            text = str(error)
            came = "refused" if "\n" not in text else "more than a line"
        except BaseException as error:
            came, text = f"ended in {type(error).__name__}", str(error)
        else:
            right = published.digest_of(path) == expected
            came, text = RIGHT if right else "other bytes", path
    said = [str(w.message) for w in caught if w.category is UserWarning]
    connection.send((came, text, said))


class _Bench:
    """Calls in processes of their own, with a cache that is emptied."""

    def __init__(self, folder, full, say):
        self.folder, self.full, self.say = folder, full, say
        self.hub = Hub()
        self.generator = np.random.default_rng(0)
        self.cache = folder / "cache"
        self.home = folder / "home"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["keras_nfnet.weights.files", "huggingface_hub.file_download"]
        )

    def fresh(self):
        self.hub.reset()
        for path in (self.cache, self.home):
            shutil.rmtree(path, ignore_errors=True)
        self.cache.mkdir()

    def start(self, endpoint=None, as_nobody=False, most=None, cache=None):
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=_client,
            args=(
                theirs,
                endpoint or self.hub.url,
                str(cache or self.cache),
                str(self.home),
                as_nobody,
                most,
                hashlib.sha256(self.hub.content).hexdigest(),
            ),
        )
        process.start()
        theirs.close()
        return process, ours

    def end(self, started):
        """`(what came, text, warnings)` of a call."""
        process, connection = started
        try:
            if not connection.poll(_LIMIT):
                return f"no answer in {_LIMIT} s", "", []
            return connection.recv()
        except EOFError:
            return "killed", "", []
        finally:
            process.kill()
            process.join()
            connection.close()

    def call(self, **options):
        return self.end(self.start(**options))


def _concurrent(bench):
    bench.hub.delay = 0.01  # So that they overlap.
    started = [bench.start() for _ in range(8 if bench.full else 4)]
    yield from (bench.end(each)[0] for each in started)


def _killed(bench):
    for _ in range(4 if bench.full else 2):
        bench.hub.delay = 0.01
        started = bench.start()
        deadline = time.monotonic() + 20
        while not bench.hub.sent and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(bench.generator.uniform(0, 0.2))
        started[0].kill()
        bench.end(started)
        bench.hub.reset()
        yield bench.call()[0]
        bench.fresh()


def _dropped(bench):
    bench.hub.drops = 1
    yield bench.call()[0]


def _misbehaving(**how):
    """A hub that answers otherwise at first, and then is well."""

    def injected(bench):
        for name, value in how.items():
            setattr(bench.hub, name, value)
        came, _, _ = bench.call()
        left = list(bench.cache.rglob("model.safetensors"))
        yield came if not any(map(os.path.exists, left)) else "kept in cache"
        bench.hub.reset()
        yield bench.call()[0]

    return injected


def _wrong(content):
    data = bytearray(content)
    data[len(data) // 2] ^= 1
    return bytes(data)


def _flipped_in_the_cache(bench):
    bench.call()
    (link,) = bench.cache.rglob("model.safetensors")
    link.resolve().write_bytes(_wrong(bench.hub.content))
    yield bench.call()[0]
    yield bench.call()[0]


def _other_at_a_later_download(bench):
    bench.call()
    shutil.rmtree(bench.cache)
    content = bench.hub.content
    bench.hub.content = _wrong(content)
    bench.hub.reset()
    came, _, said = bench.call()
    warned = any("is not what it was" in text for text in said)
    yield _WARNED if warned and came == RIGHT else came
    bench.hub.content = content


def _no_sha256(bench):
    bench.hub.announced = None
    came, _, said = bench.call()
    warned = any("could not be checked" in text for text in said)
    yield _WARNED if warned and came == RIGHT else came


def _no_network(bench):
    with socket.socket() as unused:  # Nobody listens there.
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        yield bench.call(endpoint=nowhere)[0]
        bench.call()
        yield bench.call(endpoint=nowhere)[0]


def _read_only(bench):
    bench.cache.chmod(0o555)
    yield bench.call(as_nobody=True)[0]
    bench.cache.chmod(0o755)
    bench.call()
    bench.cache.chmod(0o555)
    yield bench.call(as_nobody=True)[0]
    bench.cache.chmod(0o755)


def _file_for_a_cache(bench):
    place = bench.folder / "file"
    place.touch()
    yield bench.call(cache=place)[0]


def _full(bench):
    yield bench.call(most=_BYTES // 2)[0]
    yield bench.call()[0]


# What is injected → what does it, and what must come of its calls in turn.
_FAULTS = {
    "several processes at the same time": (_concurrent, [RIGHT]),
    "`kill -9` while downloading, then another call": (_killed, [RIGHT]),
    "the connection drops half-way": (_dropped, [RIGHT]),
    "half of the body, then a call that goes well": (
        _misbehaving(body=lambda content: content[: len(content) // 2]),
        ["refused", RIGHT],
    ),
    "a body of the right length with one flipped bit, then a call that goes "
    "well": (_misbehaving(body=_wrong), ["refused", RIGHT]),
    "401, then a call that goes well": (
        _misbehaving(status=401),
        ["refused", RIGHT],
    ),
    "404, then a call that goes well": (
        _misbehaving(status=404),
        ["refused", RIGHT],
    ),
    "500, then a call that goes well": (
        _misbehaving(status=500),
        ["refused", RIGHT],
    ),
    "one bit flipped in the cache, then another call": (
        _flipped_in_the_cache,
        ["refused", RIGHT],
    ),
    "another file at a later download": (_other_at_a_later_download, [_WARNED]),
    "no SHA-256 announced": (_no_sha256, [_WARNED]),
    "no network, without and with the file in the cache": (
        _no_network,
        ["refused", RIGHT],
    ),
    "a read-only cache, without and with the file in it": (
        _read_only,
        ["refused", RIGHT],
    ),
    "a file in the place of the cache": (_file_for_a_cache, ["refused"]),
    "a full disk, then a call with room": (_full, ["refused", RIGHT]),
}


def rows(full, folder, say):
    """The rows of the scorecard."""
    del folder  # Another user must be able to look into it.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        bench = _Bench(pathlib.Path(place), full, say)
        try:
            for name, (inject, promised) in _FAULTS.items():
                outcomes, short = {}, ""
                for _ in range(5 if full else 1):
                    bench.fresh()
                    for came, must in zip(
                        inject(bench), itertools.cycle(promised), strict=False
                    ):
                        outcomes[came] = outcomes.get(came, 0) + 1
                        if came != must:
                            short = f"{came} where {must} was promised"
                yield Row(name, outcomes, short)
        finally:
            bench.hub.close()

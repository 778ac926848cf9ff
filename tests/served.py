"""A web server for the tests of downloads: it can also break off, lead elsewhere, and never end."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    content: bytes = b""
    announced: int | None = None  # bytes in the header; as many as there are if not given
    leads_to: str | None = None  # another address
    endless: bool = False  # the content again and again, its length not announced


class Server:
    """Serves `answers` by name; `url` gives an address with its checksum, `asked` lists what was asked for."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.bytes_sent = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                server.asked.append(name)
                answer = server.answers.get(name)
                if answer is None:
                    self.send_error(404)
                elif answer.leads_to is not None:
                    self.send_response(302)
                    self.send_header("Location", answer.leads_to)
                    self.end_headers()
                else:
                    self.send(answer)

            def send(self, answer: Answer) -> None:
                self.send_response(200)
                if not answer.endless:
                    length = len(answer.content) if answer.announced is None else answer.announced
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(answer.content)
                        server.bytes_sent += len(answer.content)
                        if not answer.endless:
                            break
                except OSError:  # who asked has gone
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def url(self, name: str, content: bytes, digits: int = 64) -> str:
        return f"{self.address(name)}#sha256={hashlib.sha256(content).hexdigest()[:digits]}"


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()

"""HTTP/1.1 on a connection, as uvicorn's httptools protocol speaks it, but for two things it leaves open: a request's
head has a limit, since whoever sends it has shown no key yet, and what is no HTTP is told in the envelope of every error.
"""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.errors import ApiError

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's first line and headers."""

_NO_HTTP = ApiError(400, "this is no HTTP request that can be read", code="invalid_http")
_TOO_LARGE = ApiError(431, f"the request's headers are larger than {MAX_HEAD_BYTES} bytes", code="headers_too_large")


class Protocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    _head_bytes = 0
    """That have come of a head that is not whole."""
    _completed = False
    """Whether a request has come to its end in the part that arrived last."""
    _error = _NO_HTTP

    def data_received(self, data: bytes) -> None:
        self._completed = False
        super().data_received(data)
        if self._in_head and not self._completed and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._error = _TOO_LARGE
            raise ValueError  # the parser stops, and `send_400_response` is called
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._completed = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._error)

    def _refuse(self, error: ApiError) -> None:
        """Answer, and end the connection."""
        body = json.dumps(error.envelope()).encode()
        head = [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close", b"", b""]
        self.transport.write(STATUS_LINE[error.status] + b"\r\n".join(head) + body)
        self.transport.close()

"""The parser process: a hostile or broken file can hang or kill it, and only that file is lost.

One child reads file after file (starting one costs 0.1 s); it is killed when a file
takes too long, and its memory is capped by the kernel. Requests and answers are
length-prefixed JSON on its pipes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import DataError
from rag.documents import Document, Section

TIME_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 4 * 2**30
MAX_ANSWER_BYTES = 512 * 2**20


class Parser:
    """A parser process, started with the first file. Use it as a context manager; not thread-safe."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Parser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, kind: str, path: Path, id: str) -> list[Document]:
        """Documents of `path` by the reader `kind`.

        Raises:
            DataError: the reader refused the file, took too long, or died of it.
        """
        child = self._child if self._child is not None and self._child.poll() is None else self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        request = json.dumps({"kind": kind, "path": str(path), "id": id, "limit_s": self._time_limit_s}).encode()
        try:
            child.stdin.write(len(request).to_bytes(8, "big") + request)
            child.stdin.flush()
            answer = self._answer(child)
        except TimeoutError as exc:
            self.close()
            raise DataError(f"took over {self._time_limit_s:.0f} s to read; left out", path) from exc
        except (EOFError, BrokenPipeError, ValueError) as exc:
            self.close()
            raise DataError("brought its parser down (out of memory or a crash); left out", path) from exc
        if "error" in answer:
            raise DataError(answer["error"], path, answer["line"])
        return [_document(one) for one in answer["documents"]]

    def close(self) -> None:
        """End the process. A later `read` starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        child.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        # The child must find this very package, and nothing that lies in the working directory (-P).
        package_root = str(Path(__file__).resolve().parents[2])
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "rag.readers.contained", str(self._memory_limit_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": package_root},
        )
        return self._child

    def _answer(self, child: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert child.stdout is not None
        deadline = time.monotonic() + self._time_limit_s
        size = int.from_bytes(_exactly(child.stdout.fileno(), 8, deadline), "big")
        if size > MAX_ANSWER_BYTES:
            raise ValueError("answer too large")
        value = json.loads(_exactly(child.stdout.fileno(), size, deadline))
        assert isinstance(value, dict)
        return value


def _exactly(pipe: int, size: int, deadline: float) -> bytes:
    pieces = []
    while size:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(pipe, min(size, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _document(value: dict[str, Any]) -> Document:
    sections = tuple(Section(s["start"], s["end"], tuple(s["headings"]), s["page"]) for s in value["sections"])
    lines = tuple((start, line) for start, line in value["lines"])
    return Document(value["id"], value["title"], value["text"], sections, value["metadata"], lines)


def _serve(memory_limit_bytes: int) -> None:
    """The child's side: read requests until the parent is gone."""
    import resource

    from rag.readers import parse

    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a parser prints must not end up in the answers
    while head := stdin.read(8):
        request = json.loads(stdin.read(int.from_bytes(head, "big")))
        path = Path(request["path"])
        answer: dict[str, Any]
        # Should the parent be killed meanwhile, the kernel still ends a parser that hangs.
        signal.alarm(int(request["limit_s"]) + 10)
        try:
            answer = {"documents": [asdict(one) for one in parse(request["kind"], path, request["id"])]}
        except DataError as exc:
            where = f"{path}:{exc.line}: " if exc.line is not None else f"{path}: "
            answer = {"error": str(exc).removeprefix(where), "line": exc.line}
        except MemoryError:
            answer = {"error": "needs too much memory to read; left out", "line": None}
        except Exception as exc:  # noqa: BLE001 - third-party parsers fail in any way; the parent must hear of it
            answer = {"error": f"cannot be read ({type(exc).__name__}: {exc})", "line": None}
        signal.alarm(0)
        # Lone surrogates (garbled PDFs have them) are no characters and no UTF-8.
        data = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
        stdout.write(len(data).to_bytes(8, "big") + data)
        stdout.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))

"""Imported by a process that jobs are forked from: puts a job in place of the indexing of a vector store, which tells of
its process, waits until its subject's file is there, and does nothing else."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from serve import vector_store_child


def _wait(subject: str, _spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    print("at work", file=sys.stderr)
    (folder / "up").touch()
    while not Path(subject).exists():
        time.sleep(0.01)
    drawn = [random.random(), float(numpy.random.random())]
    return {"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0), "drawn": drawn}


vector_store_child.index_store = _wait

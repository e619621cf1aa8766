"""Runs vLLM's server and ends it when the process that started it is gone.

Started by path with the Python of the environment that has vLLM, so it imports
nothing of ours. The parent holds the other end of stdin: end of file there means
the parent has died, however it died. (PR_SET_PDEATHSIG would fire when the
parent's *thread* ends.)
"""

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

GRACE_S = 10.0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    # The whole process group: vLLM's engine core and workers are processes of their own.
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    # This file's folder holds a transformers.py, which must not stand before the real one.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Not `vllm serve`: its command line wants package metadata that the CPU build ships under another name.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)

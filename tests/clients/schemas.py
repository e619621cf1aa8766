"""Schemathesis over the OpenAPI document of a running server: no server error, no answer that its schema does not allow.

.venv/bin/python -m tests.clients.schemas SCHEMATHESIS [OPTION ...]

All checks but one: `positive_data_acceptance` wants every request that fits the schema to be accepted, and a schema
cannot say what only makes sense together (`max_tokens` beside `max_completion_tokens`, a result without its call).
"""

from __future__ import annotations

import subprocess
import sys

from tests.clients.server import serving

OURS = "^/(v1/|health|ready)"
"""All but the pages for people and Prometheus."""


def main() -> int:
    schemathesis, *more = sys.argv[1:]
    with serving() as url:
        command = [schemathesis, "run", f"{url}/openapi.json", "--include-path-regex", OURS, "--checks", "all"]
        command += ["--exclude-checks", "positive_data_acceptance", "--phases", "coverage,fuzzing"]
        command += ["--max-examples", "50", "--request-timeout", "30", "--max-response-time", "30", *more]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

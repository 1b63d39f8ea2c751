"""PostgreSQL: a server of its own for a test, reached through a socket in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NEEDED = ("initdb", "pg_ctl", "postgres")
_USER = "nobody"  # the server refuses to run as root


@contextmanager
def server() -> Iterator[str]:
    """The address of an empty database; skips the test where PostgreSQL is not installed."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"PostgreSQL is not installed: {', '.join(missing)} not on PATH")
    root = os.name == "posix" and os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if root:
            shutil.chown(folder, _USER)

        def call(*command: str) -> None:
            user = {"user": _USER, "extra_groups": []} if root else {}
            done = subprocess.run(
                command, cwd=folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **user
            )
            assert done.returncode == 0, done.stderr

        data = str(Path(folder, "data"))
        call("initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        call("pg_ctl", "-D", data, "-o", options, "-l", str(Path(folder, "log")), "-w", "start")
        try:
            yield f"postgresql://tester@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")

"""Failpoints: the places where a test can kill the process or make an operation on a file fail.

`SFTDATA_FAILPOINT=op:n:action` acts at the n-th operation (from 1) whose name is `op` (`any` counts all), with action `kill`,
`enospc`, `eio` or `short`. `SFTDATA_FAILPOINT_LOG=file` appends one line an operation, which tells a test how many there are.
With neither set, nothing happens here.
"""

from __future__ import annotations

import errno
import os
import signal
from functools import cache
from pathlib import Path

ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}


class _Failpoint:
    """Counts operations and acts at the chosen one."""

    def __init__(self) -> None:
        wanted = os.environ.get("SFTDATA_FAILPOINT", "")
        self.log = os.environ.get("SFTDATA_FAILPOINT_LOG", "")
        self.operation, self.number, self.action = "", 0, ""
        if wanted:
            self.operation, number, self.action = wanted.split(":")
            self.number = int(number)
        self.count = 0

    def reached(self, operation: str, path: Path) -> str:
        """Return the action to take at this operation, or an empty string."""
        if self.log:
            with open(self.log, "a", encoding="utf-8", errors="backslashreplace") as log:
                log.write(f"{operation} {path.name}\n")
        if self.operation not in (operation, "any"):
            return ""
        self.count += 1
        return self.action if self.count == self.number else ""


@cache
def _failpoint() -> _Failpoint:
    return _Failpoint()


def reach(operation: str, path: Path) -> bool:
    """Pass a failpoint; returns True where the caller shall write only half of its bytes and then fail.

    Raises OSError, or kills the process, where the environment asks for it.
    """
    action = _failpoint().reached(operation, path)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action in ERRORS:
        raise OSError(ERRORS[action], os.strerror(ERRORS[action]), str(path))
    return action == "short"

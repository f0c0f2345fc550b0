"""Steps from outside, for the tests of executors: worker processes import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from sftdata.registry import cleaner


@cleaner
def kill_once(text: str, *, marker: str) -> str:
    """Kill this process at rule 9, in the middle of a part, unless the file `marker` is there."""
    if "rule 9" in text and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return text


@cleaner
def sleep_long(text: str, *, marker: str) -> str:
    """Write the number of this process beside `marker`, and sleep."""
    Path(f"{marker}.{os.getpid()}").touch()
    time.sleep(120)
    return text

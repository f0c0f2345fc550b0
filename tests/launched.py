"""Code of a test in several processes that know of one another, as `torchrun` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from child_process import ROOT


def launch(code: str, world_size: int, port: int, *arguments: str, seconds: float = 120, **environment: str) -> list[str]:
    """Run the code to its end in every process; returns what each printed."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    every = {"PYTHONPATH": paths, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, **every, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world_size)
    ]
    try:
        found = [child.communicate(timeout=seconds) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert all(child.returncode == 0 for child in children), "\n".join(err for _, err in found)
    return [out for out, _ in found]


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

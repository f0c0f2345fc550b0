"""Real database servers for tests: started on loopback with their data in a temporary folder, and stopped again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POSTGRESQL_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def program(name: str) -> str | None:
    """Return the path of a server's program; Debian keeps those of PostgreSQL apart."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, POSTGRESQL_FOLDERS)])
    return shutil.which(name, path=folders)


def why_missing(*names: str) -> str:
    """Return why tests must be skipped; nothing where all programs are installed."""
    missing = [name for name in names if program(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def account(name: str) -> dict[str, Any]:
    """Return how to start a program that refuses to run as root: as its own account."""
    return {"user": name, "group": name, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def running(command: list[str], connect: Callable[[], Any], folder: Path, **options: Any) -> Iterator[None]:
    """Run a server until the block ends; wait until it can be connected to."""
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **options)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                connect().close()
                break
            except Exception:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "server.log").read_text(errors="replace")[-2000:]) from None
                time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait(timeout=60)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Start PostgreSQL and yield the URL of its database; the account `reader` has the password `se:c/ret`."""
    import psycopg

    initdb, postgres = program("initdb"), program("postgres")
    assert initdb and postgres
    own = account("postgres")
    for above in (folder, *folder.parents):  # the account must reach its folder
        if own and above.stat().st_uid == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    if own:
        shutil.chown(folder, "postgres", "postgres")
    subprocess.run(
        [initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
        check=True, capture_output=True, cwd=folder, **own,
    )  # fmt: skip
    port = free_port()
    settings = ["fsync=off", f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
    command = [postgres, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with running(command, lambda: psycopg.connect(url), folder, **own):
        yield url


@contextmanager
def mariadb(folder: Path) -> Iterator[str]:
    """Start MariaDB and yield the URL of its database `forum`."""
    import pymysql

    install, server = program("mariadb-install-db"), program("mariadbd")
    assert install and server
    user = [f"--user={'root' if os.geteuid() == 0 else os.environ.get('USER', 'nobody')}"]
    data = f"--datadir={folder / 'data'}"
    subprocess.run(
        [install, "--no-defaults", data, *user, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    port = free_port()
    where = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}"]
    command = [server, "--no-defaults", data, *user, *where, "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
    with running(command, lambda: pymysql.connect(host="127.0.0.1", port=port, user="root"), folder):
        with pymysql.connect(host="127.0.0.1", port=port, user="root") as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE forum CHARACTER SET utf8mb4")
        yield f"mariadb://root@127.0.0.1:{port}/forum"

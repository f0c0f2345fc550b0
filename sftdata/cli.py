"""The command line: the group of all commands, and how their errors are shown."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from sftdata import __version__, screen
from sftdata.commands import build, keep, look, model, tokenizer
from sftdata.errors import SftdataError, StorageError

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class _Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, so that it ends a command as Ctrl-C does: workers are ended, unfinished files removed."""


def _terminate(number: int, frame: object) -> None:
    raise _Terminated


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the block by an exception; where the command does not run in the main thread, leave it alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _name_of(interrupt: KeyboardInterrupt) -> str:
    return "SIGTERM" if isinstance(interrupt, _Terminated) else "Ctrl-C"


class _Commands(click.Group):
    """Shows every error as one line, with the exit code of its kind; a traceback only where SFTDATA_DEBUG is set."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with _ended_in_order():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            screen.note(f"stopped by {_name_of(interrupt)}; what was finished is kept")
            ctx.exit(128 + (signal.SIGTERM if isinstance(interrupt, _Terminated) else signal.SIGINT))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - whoever read us has gone; there is nobody to tell
            ctx.exit(0)
        except Exception as error:
            if os.environ.get("SFTDATA_DEBUG"):
                raise
            screen.note(click.style("error: ", fg="red") + _one_line(error))
            ctx.exit(error.exit_code if isinstance(error, SftdataError) else _exit_code(error))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, SftdataError | OSError):
        return text
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"a defect of sftdata, {type(error).__name__}: {text} (set SFTDATA_DEBUG=1 for the traceback, and please report it)"


def _exit_code(error: Exception) -> int:
    return StorageError.exit_code if isinstance(error, OSError) else 1


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__)
def main() -> None:
    """Turn raw files into training data that can be trusted, and train on it."""


for command in (
    build.init,
    build.ingest,
    build.build,
    build.run_task,
    build.preview,
    build.ablate,
    build.schema,
    look.inspect,
    look.why,
    look.diff,
    look.verify,
    look.report,
    keep.export,
    keep.publish,
    keep.repair,
    keep.gc,
    model.train,
    model.merge_lora,
    model.generate,
    tokenizer.tokenizer,
):
    main.add_command(command)

"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click


class _Place(click.ParamType[str | Path]):
    """A path, or a URL, which stays the text that it is."""

    name = "path"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Return a URL as text, anything else as a path."""
        return value if "://" in str(value) else Path(value)


PLACE = _Place()

json_option = click.option("--json", "as_json", is_flag=True, help="Print machine output on stdout.")


def allow_code(ctx: click.Context, parameter: click.Parameter, allowed: bool) -> bool:
    """Make modules in the current folder importable, as `python -m` does, where outside code is allowed."""
    if allowed and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return allowed


code_option = click.option(
    "--allow-code", is_flag=True, callback=allow_code, help="Allow steps written module:function, which run code."
)
set_option = click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key of the recipe.")
out_option = click.option("--out", type=click.Path(path_type=Path), help="The folder to write.")
workers_option = click.option("--workers", type=click.IntRange(1), help="Worker processes; by default one a processor.")
work_dir_option = click.option("--work-dir", type=click.Path(path_type=Path), help="Where results are kept for the next build.")

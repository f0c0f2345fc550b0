"""The report: where every record went, in one HTML page that needs nothing from the network."""

from __future__ import annotations

import html
from typing import Any


def report_page(manifest: dict[str, Any]) -> str:
    """Return the report of a build as one HTML page."""
    return f"<!doctype html><title>{html.escape(manifest['name'])}</title>"

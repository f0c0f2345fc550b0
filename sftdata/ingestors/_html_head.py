"""What a page says about itself: title, address, language and date."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import turbohtml

_DATES = ("article:published_time", "datepublished", "date", "dc.date", "dcterms.date", "pubdate", "publish_date")
_DATE = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})")
_LINKED_DATE = re.compile(r'"datePublished"\s{0,20}:\s{0,20}"([^"<]{8,40})"')
"""The date in a page's linked data (JSON-LD, schema.org)."""


def read_metadata(document: turbohtml.Document, text: str) -> dict[str, str]:
    """Return the fields title, url (canonical), language and date (ISO 8601), each "" where the page does not tell."""
    meta = _meta(document)
    title = document.find("title")
    root = document.find("html")
    linked = None if any(name in meta for name in _DATES) else _LINKED_DATE.search(text)
    dates = [*(meta.get(name, "") for name in _DATES), linked[1] if linked else ""]
    return {
        "title": (" ".join(title.text.split()) if title else "") or meta.get("og:title", ""),
        "url": _canonical(document) or meta.get("og:url", ""),
        "language": str((root and (root.attr("lang") or root.attr("xml:lang"))) or meta.get("content-language", "")),
        "date": next(filter(None, map(_iso_date, dates)), ""),
    }


def _meta(document: turbohtml.Document) -> dict[str, str]:
    meta: dict[str, str] = {}
    for tag in document.find_all("meta"):
        for attribute in ("property", "name", "itemprop", "http-equiv"):
            name = tag.attr(attribute)
            if name:
                meta.setdefault(name.lower(), (tag.attr("content") or "").strip())
    return meta


def _canonical(document: turbohtml.Document) -> str:
    for link in document.find_all("link"):
        if "canonical" in (link.attr("rel") or "").lower().split():
            return (link.attr("href") or "").strip()
    return ""


def _iso_date(text: str) -> str:
    """Return a date as ISO 8601: with its time where it is written so, else the day alone; "" where there is none."""
    match = _DATE.match(text)
    if match is None:
        return ""
    try:
        day = date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    except ValueError:
        return ""
    return text if re.fullmatch(re.escape(day) + r"(?:[T ][\d:.]+(?:Z|[+-]\d\d:?\d\d)?)?", text) else day

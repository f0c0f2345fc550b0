"""Init: look at raw files and write a commented recipe that builds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sftdata import registry, storage
from sftdata.errors import DataError, SftdataError
from sftdata.formatters.auto import LADDER
from sftdata.ingestors._encoding import detect_encoding
from sftdata.records import Bad, Record
from sftdata.sources import InputFile, bare_suffix, list_files

SAMPLE_RECORDS = 50
"""Records of a file from which its shape is told."""
SAMPLE_FILES = 3
"""Files of a group that are read: the others have the same ending and lie in the same folder."""
SMALL_BYTES = 1 << 20
"""Bytes of raw files below which a tokenizer of 1,000 pieces is learned, else of 8,000: fewer texts have no more."""

_PAIRS = (
    ("question", "answer"), ("q", "a"), ("query", "response"), ("prompt", "response"), ("prompt", "answer"),
    ("input", "output"), ("instruction", "response"), ("title", "body"), ("问题", "答案"), ("问题", "回答"), ("问", "答"),
)  # fmt: skip
"""Names of fields that hold what is asked and what is answered."""
_TEXTS = ("text", "content", "body", "story", "article", "document", "message", "正文", "内容", "文本")
_DATABASES = (".db", ".sqlite", ".sqlite3")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NOT_TEXT = re.compile(r"(?:^|_)(?:id|url|uri|link|date|time|created_at|updated_at|hash|path|email|language)$", re.IGNORECASE)


NO_TEXT = "no field with text was found: choose a format and take the # away"
TOOLS = "records with tools, for which chatml has no place: name a tokenizer with its own chat_template, and take the # away"


@dataclass
class SniffedSource:
    """What one source of the recipe will read, and what was seen in it."""

    name: str
    paths: list[str]
    ingest: str | dict[str, Any]
    format: str | dict[str, Any] | None
    """None: the records have no text that could be told."""
    notes: list[str] = field(default_factory=list)
    obstacle: str = ""
    """Why the source is written as a comment: the recipe would not build with it as it is."""


@dataclass(frozen=True)
class InitResult:
    """The written recipe."""

    recipe: Path
    sources: list[SniffedSource]
    skipped: list[str]
    """Files whose ending no ingestor reads."""


def init(raw: str | Path, *, out: str | Path | None = None) -> InitResult:
    """Look at a file or folder of raw files and write a commented recipe for it; nothing that exists is overwritten.

    `out`: the recipe, by default `<name of RAW>.yaml` in the current folder. Formats are told by the files' endings, tables and
    fields by the first records, read as a build would read them. Raises DataError where there is nothing to read or the recipe
    exists.
    """
    root = Path(raw)
    recipe = Path(out) if out is not None else Path(f"{_as_name(root.resolve().name)}.yaml")
    if recipe.exists():
        raise DataError(f"{recipe}: exists; name another recipe with --out, or remove it")
    files = list_files([root], ())
    groups, skipped = _group(files)
    sources = [source for group in groups for source in _sniff(group, root)]
    _make_names_unique(sources)
    if all(source.obstacle == NO_TEXT for source in sources):
        raise DataError(f"{root}: holds no file with text that html, csv, sql or jsonl can read")
    num_bytes = sum(path.stat().st_size for path in {file.path for file in files})
    text = _recipe_text(recipe, sources, skipped, num_bytes)
    storage.write_bytes(recipe, text.encode("utf-8"))
    return InitResult(recipe, sources, skipped)


@dataclass
class _Group:
    """Files that one source will read: they lie in one folder or archive and have one format."""

    format: str
    folder: Path
    suffixes: tuple[str, ...]
    files: list[InputFile]


def _group(files: Sequence[InputFile]) -> tuple[list[_Group], list[str]]:
    """Return the groups, and the names of files that no ingestor reads; only pages share a source, tables have one each."""
    formats = {
        suffix: (name, step.suffixes) for name, step in registry.known_steps("ingestor").items() for suffix in step.suffixes
    }
    groups: dict[tuple[str, Path], _Group] = {}
    skipped = []
    for file in files:
        suffix = bare_suffix(file.member or file.path.name)
        if suffix not in formats:
            skipped.append(file.name)
            continue
        name, suffixes = formats[suffix]
        shared = file.path.parent if name == "html" and not file.member else file.path
        groups.setdefault((name, shared), _Group(name, shared, suffixes, [])).files.append(file)
    return list(groups.values()), skipped


def _sniff(group: _Group, root: Path) -> Iterator[SniffedSource]:
    """Yield the sources for a group: one for each table of a dump, else one."""
    options, encoding = _encoding(group)
    samples: dict[str, list[dict[str, Any]]] = {}
    num_bad, notes = 0, []
    for file in group.files[:SAMPLE_FILES]:
        try:
            for row in _sample(group.format, file, options):
                table = row.key.rpartition("/")[0]
                num_bad += isinstance(row, Bad)
                if isinstance(row, Record):
                    samples.setdefault(table, []).append(row.fields)
        except SftdataError as error:
            notes.append(f"cannot be read: {error}")
    paths = _paths(group, root)
    if num_bad:
        notes.append(f"{num_bad} of the first records cannot be read and will be in the quarantine")
    stem = group.folder.name.split(".")[0] if group.folder.is_file() else group.folder.resolve().name
    for table, records in (samples or {"": []}).items():
        names = list(dict.fromkeys(name for record in records for name in record))
        count = f"{len(group.files)} file{'s' * (len(group.files) > 1)}"
        seen = [f"{count}{encoding}; fields: {', '.join(names)}" if names else f"{count}{encoding}; no record read"]
        given = {**options, "table": table} if table else options
        ingest: str | dict[str, Any] = {group.format: given} if given else group.format
        formatter = _formatter(records, names)
        if lacking := [name for name in names if _num_with(name, records) < len(records)]:
            seen.append(f"some of the first {len(records)} records have no {', '.join(lacking)}")
        obstacle = NO_TEXT if formatter is None else TOOLS if any(map(_has_tools, records)) else ""
        yield SniffedSource(_as_name(table or stem), paths, ingest, formatter, seen + notes, obstacle)


def _encoding(group: _Group) -> tuple[dict[str, Any], str]:
    """Return the options that an encoding which the ingestor would not find by itself needs, and the note about it."""
    options = registry.option_fields(registry.find_step("ingestor", group.format))
    if "encoding" not in options or bare_suffix(group.files[0].name) in _DATABASES:  # pages and databases say it themselves
        return {}, ""
    try:
        found = detect_encoding(group.files[0])
    except SftdataError:
        return {}, ""
    return ({"encoding": found} if options["encoding"][1] == "utf-8" != found else {}), f", {found}"


def _sample(format_name: str, file: InputFile, options: dict[str, Any]) -> Iterator[Record | Bad]:
    rows = registry.find_step("ingestor", format_name).function(file, **options)
    if format_name != "sql":
        yield from islice(rows, SAMPLE_RECORDS)
        return
    taken: dict[str, int] = {}
    for row in islice(rows, 1000 * SAMPLE_RECORDS):  # the tables of a dump follow one another
        table = row.key.rpartition("/")[0]
        taken[table] = taken.get(table, 0) + 1
        if taken[table] <= SAMPLE_RECORDS:
            yield row


def _paths(group: _Group, root: Path) -> list[str]:
    """Return the folder where it holds no other files of the format further down, else the files themselves."""
    if group.folder.is_file():
        return [str(group.folder)]
    below = [path for path in group.folder.rglob("*") if path.is_file() and bare_suffix(path.name) in group.suffixes]
    if len(below) == len(group.files):
        return [str(group.folder)]
    return [str(file.path) for file in group.files]


def _formatter(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str | dict[str, Any] | None:
    """Return the formatter for records like these: a known shape, a pair of telling names, or the field with most text.

    What one of the records lacks is a field all the same, if most have it: the others will be in the quarantine.
    """
    present = [name for name in names if _num_with(name, records) > len(records) / 2]
    for step, choices, options in LADDER:
        for wanted in choices:
            if set(wanted) <= set(present):
                optional = {"input": "input", **options} if step == "instruction" else options
                return _named(step, wanted, {key: name for key, name in optional.items() if name is True or name in names})
    lower = {name.lower(): name for name in present}
    for asked, answered in _PAIRS:
        if asked in lower and answered in lower:
            return {"source_target": {"source": lower[asked], "target": lower[answered], "chat": True}}
    texts = {name: [record[name] for record in records if record.get(name) is not None] for name in present}
    lengths = {
        name: sum(map(len, values))
        for name, values in texts.items()
        if all(isinstance(value, str) for value in values) and not _NOT_TEXT.search(name) and not all(map(_DATE.match, values))
    }
    known = [name for name in lengths if name.lower() in _TEXTS]
    best = max(known or lengths, key=lengths.__getitem__, default=None)
    return None if best is None or not lengths[best] else {"text": {"text": best}}


def _num_with(name: str, records: Sequence[dict[str, Any]]) -> int:
    return sum(record.get(name) is not None for record in records)


def _has_tools(record: dict[str, Any]) -> bool:
    tools = record.get("tools")
    return bool(tools.strip(" []\n") if isinstance(tools, str) else tools)


def _named(step: str, wanted: Sequence[str], options: dict[str, Any]) -> str | dict[str, Any]:
    if step == "messages":
        return {"messages": {"messages": wanted[0], **options}}
    if step == "instruction":
        return {"instruction": {name: name for name in wanted} | options}
    return {step: options} if options else step


def _as_name(text: str) -> str:
    return re.sub(r"[^\w-]+", "_", text).strip("_-") or "raw"


def _make_names_unique(sources: Iterable[SniffedSource]) -> None:
    taken: set[str] = set()
    for source in sources:
        name, number = source.name, 2
        while source.name in taken:
            source.name, number = f"{name}_{number}", number + 1
        taken.add(source.name)


_HEAD = """\
# Written by `sftdata init`; look through it, then:
#
#   sftdata preview {recipe}       a sample through every step, writes nothing
#   sftdata build {recipe}
#
# docs/recipe.md explains every key.
name: {name}
seed: 42

tokenizer:
  train: {{algorithm: bpe, vocab_size: {vocab_size}}}     # learned from the cleaned text; or path: FOLDER or hub:org/name
  chat_template: chatml

sources:
"""

_TAIL = """
# Across all sources: exact copies are dropped, the first stays.
clean: [{dedup: {method: exact}}]

tokenize:
  sequence_len: 1024       # longer rows are dropped; excess_length: truncate_end, whole_turns or split keeps them
  excess_length: split
split: {validation: 0.05}
pack: {strategy: best_fit}
limits: {max_bad: 0.01}    # share of rows in the quarantine at which the build stops
"""


def _recipe_text(recipe: Path, sources: Sequence[SniffedSource], skipped: Sequence[str], num_bytes: int) -> str:
    name = _as_name(recipe.stem)
    vocab_size = 1000 if num_bytes < SMALL_BYTES else 8000
    lines = [_HEAD.format(recipe=recipe, name=name, vocab_size=vocab_size)]
    lines += [_source_text(source, recipe.resolve().parent) for source in sources]
    lines += [f"# not read, no ingestor for this ending: {skip}\n" for skip in skipped]
    return "".join(lines) + _TAIL + f"output: shards/{name}\n"


def _source_text(source: SniffedSource, folder: Path) -> str:
    paths = [os.path.relpath(path, folder) for path in source.paths]
    keys: dict[str, Any] = {
        "name": source.name,
        "path": paths[0] if len(paths) == 1 else paths,
        "ingest": source.ingest,
        "clean": ["unicode"],
        "format": source.format or "text",
    }
    notes = [*source.notes, *([source.obstacle] if source.obstacle else [])]
    body = [f"    {key}: {_flow(value)}" for key, value in keys.items()]
    body[0] = "  - " + body[0].lstrip()
    mark = "# " if source.obstacle else ""
    return "".join(f"  # {' '.join(note.split())}\n" for note in notes) + "".join(f"{mark}{line}\n" for line in body)


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("...").rstrip()

"""YAML 1.2 for recipes and rule files: core scalars only, no duplicate keys, no merge keys, and the line of every value.

PyYAML parses; the values are built here, since its own loader follows YAML 1.1 (`no` is a boolean, `1e-4` a string, `012` is
octal), lets the last of two equal keys win, and hangs on nested merge keys.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sftdata.errors import RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_VALUES = MAX_BYTES
"""Values in a document with its aliases written out; without aliases each takes a byte at least."""

Place = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Characters that end a line in YAML 1.1, as PyYAML reads it, and are text in YAML 1.2."""
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NAMED: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
}


class Located(NamedTuple):
    """A YAML document: its value, and the line (from 1) of every place in it."""

    value: Any
    lines: dict[Place, int]


def parse_scalar(text: str) -> Any:
    """Return the value of a plain YAML 1.2 scalar: `1e-4` is a number, `no` is text."""
    if text in _NAMED:
        return _NAMED[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


class _Composer(yaml.SafeLoader):
    """Composes the nodes of a document, and refuses tags, depth and a flood of aliases before they cost anything."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.document = name
        self.depth = self.num_aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the next node, as PyYAML composes it. Raises RecipeError with its line."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        self.num_aliases += isinstance(event, yaml.AliasEvent)
        problem = None
        if self.depth > MAX_DEPTH + 1:
            problem = f"nested deeper than {MAX_DEPTH}"
        elif self.num_aliases > MAX_ALIASES:
            problem = f"more than {MAX_ALIASES} aliases"
        elif getattr(event, "tag", None) is not None:
            problem = f"tags ({event.tag}) are not read; for text write quotes"
        if problem:
            raise RecipeError(f"{self.document}:{event.start_mark.line + 1} {problem}")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse(text: str, name: str) -> Located:
    """Parse one YAML document; `name` stands in messages before the line. Raises RecipeError."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES:,} bytes")
    if found := _LINE_BREAKS.search(text):
        code = f"{ord(found[0]):04x}"
        line = text.count("\n", 0, found.start()) + 1
        raise RecipeError(f"{name}:{line} U+{code.upper()} stands raw, a line's end to some readers; write \\u{code} in quotes")
    try:
        node = _Composer(text, name).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{name}:{line} not YAML: a character that is not allowed: U+{error.character:04X}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ": ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(f"{name}:{mark.line + 1 if mark else 1} not YAML: {message}") from error
    lines: dict[Place, int] = {}
    return Located(None if node is None else _build(node, (), lines, name), lines)


def load(path: Path) -> Located:
    """Read and parse a YAML file. Raises RecipeError for a file that is missing, not UTF-8 or not YAML."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path}: larger than {MAX_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return parse(text, str(path))


def _build(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> Any:
    lines[place] = node.start_mark.line + 1
    if len(place) > MAX_DEPTH:
        raise RecipeError(f"{name}:{lines[place]} nested deeper than {MAX_DEPTH}")
    if len(lines) > MAX_VALUES:
        raise RecipeError(f"{name}:{lines[place]} aliases make more than {MAX_VALUES:,} values; write them out")
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, place, lines, name)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*place, index), lines, name) for index, item in enumerate(node.value)]
    text = _text(node, name)
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return text
    try:
        return parse_scalar(text)
    except ValueError as error:
        raise RecipeError(f"{name}:{lines[place]} a number of {len(text):,} digits") from error


def _text(node: yaml.Node, name: str) -> str:
    """Return a scalar's text, escaped surrogate pairs joined, as JSON writes characters past U+FFFF."""
    text: str = node.value
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{name}:{node.start_mark.line + 1} an escaped surrogate stands alone") from error


def _build_mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int], name: str) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{name}:{line} a key must be text")
        key = _text(key_node, name)
        if key == "<<" and key_node.style is None:
            raise RecipeError(f"{name}:{line} merge keys (<<) are not read; write the values out")
        if key in built:
            raise RecipeError(f"{name}:{line} {key!r} stands twice, first on line {lines[(*place, key)]}")
        built[key] = _build(value_node, (*place, key), lines, name)
        lines[(*place, key)] = line
    return built

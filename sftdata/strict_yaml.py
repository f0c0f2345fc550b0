"""YAML 1.2 for recipes and rule files: core scalars only, no duplicate keys, no merge keys, and the line of every value.

PyYAML parses; the values are built here, since its own loader follows YAML 1.1 (`no` is a boolean, `1e-4` a string, `012` octal),
lets the last of two equal keys win, and hangs on nested merge keys.
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

Place = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NAMED: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), math.inf),
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


def parse(text: str, name: str) -> Located:
    """Parse one YAML document; `name` stands in messages before the line. Raises RecipeError."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise RecipeError(f"{name}: larger than {MAX_BYTES:,} bytes")
    try:
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))
        if aliases > MAX_ALIASES:
            raise RecipeError(f"{name}: {aliases} aliases; at most {MAX_ALIASES} are read")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{name}:{line} not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}") from error
    if node is None:
        return Located(None, {})
    lines: dict[Place, int] = {}
    return Located(_build(node, (), lines, name), lines)


def load(path: Path) -> Located:
    """Read and parse a YAML file. Raises RecipeError for a file that is missing, not UTF-8 or not YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(text, str(path))


def _build(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> Any:
    lines[place] = node.start_mark.line + 1
    if len(place) > MAX_DEPTH:
        raise RecipeError(f"{name}:{lines[place]} nested deeper than {MAX_DEPTH}")
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, place, lines, name)
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*place, index), lines, name) for index, item in enumerate(node.value)]
    if node.style is not None or node.tag == "tag:yaml.org,2002:str" and not _is_plain(node):
        return node.value
    return parse_scalar(node.value)


def _is_plain(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.style is None


def _build_mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int], name: str) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise RecipeError(f"{name}:{line} a key must be text")
        key = key_node.value
        if key == "<<" and key_node.style is None:
            raise RecipeError(f"{name}:{line} merge keys (<<) are not read; write the values out")
        if key in built:
            raise RecipeError(f"{name}:{line} {key!r} stands twice, first on line {lines[(*place, key)]}")
        built[key] = _build(value_node, (*place, key), lines, name)
        lines[(*place, key)] = line
    return built

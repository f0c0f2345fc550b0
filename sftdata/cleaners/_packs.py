"""Rule packs of the slop cleaner: YAML files read strictly, every error with its file and line.

A pack is a mapping `id, version, language, variants, fragments, rules, requests`. A rule holds exactly one of `literal`,
`regex` (tried on the sentences that hold one of its `anchors` and, where given, one of the phrases `beside` them) and
`lexicon` (a list of style words, counted by density). `variants` folds further characters, one for one; `{{name}}` in a
regex stands for a fragment. Texts and patterns meet in the folded view (`_fold.py`): a regex is written in lower case, with
ASCII punctuation and quotes, and without blanks beside Han characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sftdata.cleaners._fold import Table, fold, fold_table, variants_of
from sftdata.cleaners._rules import ACTIONS, BOUNDARIES, CATEGORIES, PATTERN_KINDS, PLACES, ROLES, Pack, Request, Rule
from sftdata.errors import RecipeError, suggest

PACK_VERSION = 1
"""Version of the pack format that this module reads."""

PACK_FOLDER = Path(__file__).parent / "packs"


class _Node(NamedTuple):
    """A YAML value (str, list of nodes, or dict of nodes) with its place."""

    value: Any
    place: str
    """`path:line`, then the path of keys."""

    def error(self, message: str) -> RecipeError:
        return RecipeError(f"{self.place}: {message}")


_PACK_KEYS = ("id", "version", "language", "variants", "fragments", "rules", "requests")
_RULE_KEYS = (
    *("id", "category", *PATTERN_KINDS, "anchors", "beside", "sentences", "boundary", "where", "role"),
    *("severity", "action", "weight", "density", "source", "must_fire", "must_not_fire"),
)
_REQUEST_KEYS = ("id", "exempts", "every", "unless_answer")


def pack_files(packs: Iterable[str], extra_packs: Iterable[str] = ()) -> tuple[Path, ...]:
    """Return the files of the built-in packs by name, then those of the user's own packs, in order.

    Raises RecipeError for an unknown pack or a file that does not exist.
    """
    known = sorted(folder.name for folder in PACK_FOLDER.iterdir() if folder.is_dir())
    files: list[Path] = []
    for name in packs:
        if name not in known:
            raise RecipeError(f"unknown rule pack {name!r}{suggest(name, known)}")
        files += sorted((PACK_FOLDER / name).glob("*.yaml"))
    for name in extra_packs:
        if not Path(name).is_file():
            raise RecipeError(f"rule pack {name} does not exist")
        files.append(Path(name))
    return tuple(files)


def load_packs(files: Iterable[Path]) -> tuple[Pack, ...]:
    """Read packs. Raises RecipeError with file and line for YAML, keys, values or regexes that are wrong, or an id used twice.

    The `variants` of all packs are folded in the patterns of each, as the matcher folds the texts.
    """
    tops = {path: _top(_read_yaml(path)) for path in files}
    variants = {path: _variants(top.get("variants")) for path, top in tops.items()}
    table = fold_table(variants_of(*variants.values()))
    packs = tuple(_pack(path, top, variants[path], table) for path, top in tops.items())
    homes: dict[str, Path] = {}
    for pack in packs:
        for rule in pack.rules:
            if rule.id in homes:
                raise RecipeError(f"{pack.path}: rule {rule.id!r} is already defined in {homes[rule.id]}; give it another id")
            homes[rule.id] = pack.path
    return packs


def _top(root: _Node) -> dict[str, _Node]:
    top = _mapping(root, _PACK_KEYS, required=("id", "version", "language", "rules"))
    if _text(top["version"]) != str(PACK_VERSION):
        raise top["version"].error(f"pack format {_text(top['version'])!r} is not supported; this version reads {PACK_VERSION}")
    return top


def _pack(path: Path, top: dict[str, _Node], variants: dict[str, str], table: Table) -> Pack:
    fragments = _fragments(top.get("fragments"), table)
    rules = tuple(_rule(node, fragments, table) for node in _sequence(top["rules"]))
    requests = tuple(_request(node, fragments, table) for node in _sequence(top["requests"])) if "requests" in top else ()
    return Pack(_text(top["id"]), _text(top["language"]), path, rules, requests, variants)


def _read_yaml(path: Path) -> _Node:
    import yaml

    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from error
    if tree is None:
        raise RecipeError(f"{path}: the pack is empty")
    return _located(tree, path, "")


def _located(node: Any, path: Path, name: str) -> _Node:
    """Turn a YAML node into nested values; scalars stay text, so that `no` and `1.0` mean what is written."""
    place = f"{path}:{node.start_mark.line + 1}" + (f" {name}" if name else "")
    if node.id == "scalar":
        return _Node(node.value, place)
    if node.id == "sequence":
        return _Node([_located(child, path, f"{name}[{index}]") for index, child in enumerate(node.value)], place)
    entries: dict[str, _Node] = {}
    for key, child in node.value:
        if key.value in entries:
            raise RecipeError(f"{path}:{key.start_mark.line + 1}: key {key.value!r} occurs twice")
        entries[key.value] = _located(child, path, f"{name}.{key.value}".lstrip("."))
    return _Node(entries, place)


def _mapping(node: _Node, known: tuple[str, ...], required: tuple[str, ...]) -> dict[str, _Node]:
    if not isinstance(node.value, dict):
        raise node.error("expected a mapping")
    for key, child in node.value.items():
        if key not in known:
            raise child.error(f"unknown key {key!r}{suggest(key, known)}")
    for key in required:
        if key not in node.value:
            raise node.error(f"key {key!r} is missing")
    return node.value


def _sequence(node: _Node) -> list[_Node]:
    if not isinstance(node.value, list):
        raise node.error("expected a list")
    return node.value


def _text(node: _Node) -> str:
    if not isinstance(node.value, str) or not node.value:
        raise node.error("expected a text that is not empty")
    return node.value


def _texts(node: _Node | None) -> tuple[str, ...]:
    return () if node is None else tuple(_text(item) for item in _sequence(node))


def _choice(node: _Node | None, known: tuple[str, ...], default: str) -> str:
    if node is None:
        return default
    if _text(node) not in known:
        raise node.error(f"unknown value {node.value!r}{suggest(node.value, known)}")
    return _text(node)


def _number(node: _Node | None, default: float, *, highest: float) -> float:
    if node is None:
        return default
    try:
        number = float(_text(node))
    except ValueError:
        number = -1.0
    if not 0 <= number <= highest:
        raise node.error(f"expected a number from 0 to {highest:g}, not {node.value!r}")
    return number


def _variants(node: _Node | None) -> dict[str, str]:
    if node is None:
        return {}
    pairs = {key: _text(child) for key, child in _mapping(node, tuple(node.value), ()).items()}
    for key, plain in pairs.items():
        if len(key) != 1 or len(plain) != 1:
            raise node.value[key].error(f"a variant is one character for one character, not {key!r}: {plain!r}")
    return pairs


def _fragments(node: _Node | None, table: Table) -> dict[str, str]:
    fragments: dict[str, str] = {}
    if node is not None:
        for name, child in _mapping(node, tuple(node.value), ()).items():
            fragments[name] = f"(?:{_regex_source(child, fragments, table)})"
    return fragments


def _regex_source(node: _Node, fragments: dict[str, str], table: Table) -> str:
    """Return the source with `{{name}}` replaced and everything beyond ASCII folded as texts are."""
    source = _text(node)
    for name in re.findall(r"\{\{(\w+)\}\}", source):
        if name not in fragments:
            raise node.error(f"unknown fragment {name!r}{suggest(name, fragments)}")
    source = re.sub(r"\{\{(\w+)\}\}", lambda match: fragments[match[1]], source)
    return re.sub(r"[^\x00-\x7f]+", lambda match: re.escape(fold(match[0], table).text), source)


def _regex(node: _Node, fragments: dict[str, str], table: Table) -> re.Pattern[str]:
    try:
        compiled = re.compile(_regex_source(node, fragments, table))
    except (re.error, OverflowError, RecursionError) as error:
        raise node.error(f"broken regex: {error}") from error
    if compiled.search(""):
        raise node.error("the regex matches the empty text")
    return compiled


def _phrases(node: _Node, table: Table, *, least: int = 2) -> tuple[str, ...]:
    folded = []
    for item in _sequence(node):
        text = fold(_text(item), table).text
        if len(text.strip()) < least:
            raise item.error(f"a phrase needs at least {least} characters, not {item.value!r}")
        folded.append(text.replace("\n", " "))
    if not folded:
        raise node.error("the list is empty")
    return tuple(dict.fromkeys(folded))


def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds any of the phrases: one search costs a third of as many `str.find`."""
    return re.compile("|".join(map(re.escape, phrases)))


def _rule(node: _Node, fragments: dict[str, str], table: Table) -> Rule:
    keys = _mapping(node, _RULE_KEYS, required=("id", "category", "action", "source", "must_fire"))
    kinds = [kind for kind in PATTERN_KINDS if kind in keys]
    if len(kinds) != 1:
        raise node.error(f"a rule has exactly one of {', '.join(PATTERN_KINDS)}, not {len(kinds)}")
    if ("anchors" in keys) != (kinds == ["regex"]):
        raise node.error("anchors belong to a regex rule, which needs them: literals of which every match holds one")
    for name in ("beside", "sentences"):
        if name in keys and kinds != ["regex"]:
            raise keys[name].error(f"{name} belongs to a regex rule")
    if ("density" in keys) != (kinds == ["lexicon"]):
        raise node.error("density belongs to a lexicon rule, which needs it: hits per 1,000 words or Han characters")
    beside = _phrases(keys["beside"], table, least=1) if "beside" in keys else ()
    return Rule(
        id=_text(keys["id"]),
        category=_choice(keys["category"], CATEGORIES, ""),
        kind=kinds[0],
        patterns=_phrases(keys["anchors" if kinds == ["regex"] else kinds[0]], table),
        regex=_regex(keys["regex"], fragments, table) if kinds == ["regex"] else None,
        beside=_any_of(beside) if beside else None,
        beside_phrases=beside,
        sentences=int(_choice(keys.get("sentences"), ("1", "2"), "1")),
        boundary=_choice(keys.get("boundary"), BOUNDARIES, "word"),
        where=_choice(keys.get("where"), PLACES, "anywhere"),
        roles=tuple(_choice(role, ROLES, "") for role in _sequence(keys["role"])) if "role" in keys else (),
        severity=_number(keys.get("severity"), 1.0, highest=1),
        action=_choice(keys["action"], ACTIONS, ""),
        weight=_number(keys.get("weight"), 0.3, highest=1),
        density=_number(keys.get("density"), 0.0, highest=1000),
        source=_text(keys["source"]),
        must_fire=_texts(keys["must_fire"]),
        must_not_fire=_texts(keys.get("must_not_fire")),
    )


def _request(node: _Node, fragments: dict[str, str], table: Table) -> Request:
    keys = _mapping(node, _REQUEST_KEYS, required=("id", "exempts", "every"))
    return Request(
        id=_text(keys["id"]),
        exempts=tuple(_choice(category, CATEGORIES, "") for category in _sequence(keys["exempts"])),
        every=tuple(_regex(item, fragments, table) for item in _sequence(keys["every"])),
        unless_answer=_regex(keys["unless_answer"], fragments, table) if "unless_answer" in keys else None,
    )

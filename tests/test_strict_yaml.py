"""Strict YAML: the scalars of YAML 1.2, nothing that means another thing than it says, and the line of every value."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import strict_yaml
from sftdata.errors import RecipeError
from sftdata.strict_yaml import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, load, parse, parse_scalar

LINE_ENDS = "\x85\u2028\u2029"
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters=LINE_ENDS + "\ufffe\uffff"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def value_of(text: str) -> object:
    return parse(text, "recipe.yaml").value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.0e-4", 1e-4), (".5", 0.5), ("5.", 5.0), ("-1E3", -1000.0), ("+1.5", 1.5),
        ("012", 12), ("-7", -7), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("0", 0),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        (".inf", math.inf), ("+.INF", math.inf), ("-.Inf", -math.inf),
    ],
)  # fmt: skip
def test_scalar_has_its_yaml_1_2_value(text, value):
    assert parse_scalar(text) == value and type(parse_scalar(text)) is type(value)
    assert value_of(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "on", "off", "y", "tRUE", "NuLL", "1_000", "0b1", "12:30:45", "2024-01-01", "0o9", "-0x1F", "1e", "e5", ".",
     "=", "1.2.3", "nan", "inf", "０"],
)  # fmt: skip
def test_scalar_that_yaml_1_1_would_change_is_text(text):
    assert parse_scalar(text) == text == value_of(f"- {text}")[0]


def test_not_a_number_and_quoted_scalars():
    assert math.isnan(parse_scalar(".nan"))
    assert value_of("['1', \"true\", '~', '', |\n 12\n]".replace("|\n 12\n", "'.5'")) == ["1", "true", "~", "", ".5"]
    assert value_of("a: |\n  12\nb: >\n  no\n  1\n") == {"a": "12\n", "b": "no 1\n"}
    assert value_of("1: a\ntrue: b\n~: c\n") == {"1": "a", "true": "b", "~": "c"}


@settings(deadline=None)
@given(JSON)
def test_json_is_read_as_json(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), json.dumps(value, indent=1)):
        assert json.dumps(value_of(text)) == json.dumps(value)


def test_characters_of_json_escapes_are_joined_and_lone_surrogates_refused():
    assert value_of('{"\\ud83d\\ude00": "\\ud842\\udfb7"}') == {"😀": "𠮷"}
    for text in ('a: 1\nb: "\\ud83d"', 'a: 1\n"\\ude00": 1'):
        with pytest.raises(RecipeError, match=r"^recipe\.yaml:2 an escaped surrogate stands alone$"):
            value_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "recipe.yaml:3 'a' stands twice, first on line 1"),
        ("x:\n  - {a: 1, \"a\": 2}", "recipe.yaml:2 'a' stands twice, first on line 2"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "recipe.yaml:3 merge keys (<<) are not read; write the values out"),
        ("a: 1\nb: !!python/object:os.system x", "recipe.yaml:2 tags (tag:yaml.org,2002:python/object:os.system) are not read"),
        ("a: !!str 1", "recipe.yaml:1 tags (tag:yaml.org,2002:str) are not read; for text write quotes"),
        ("a: ! x", "recipe.yaml:1 tags (!) are not read"),
        ("!!map {a: 1}", "recipe.yaml:1 tags"),
        ("!k a: 1", "recipe.yaml:1 tags"),
        ("? [a]\n: 1", "recipe.yaml:1 a key must be text"),
        ("a: 1\n---\nb: 2", "recipe.yaml:2 not YAML: expected a single document"),
        ("a: [1\nb: 2", "recipe.yaml:2 not YAML: while parsing a flow sequence: expected"),
        ("\n\n\ta: 1", "recipe.yaml:3 not YAML: while scanning for the next token"),
        ("a: 1\nb: \x07", "recipe.yaml:2 not YAML: a character that is not allowed: U+0007"),
        ("a: 1\nb: 'x\u2028y'", "recipe.yaml:2 U+2028 stands raw"),
        ("a: *nobody", "recipe.yaml:1 not YAML: found undefined alias"),
        ("a: 1\nb: " + "9" * 5000, "recipe.yaml:2 a number of 5,000 digits"),
        ("x" * (MAX_BYTES + 1), "recipe.yaml: larger than 1,048,576 bytes"),
        ("- *a\n" * 3, "recipe.yaml:1 not YAML"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_in_one_line(text, message):
    with pytest.raises(RecipeError) as caught:
        value_of(text)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_aliases_are_written_out_and_do_not_share():
    value = value_of("a: &x {b: [1]}\nc: *x\n")
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert value["a"]["b"] is not value["c"]["b"]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_depth_is_limited_without_a_long_wait(opening):
    closing = {"[": "]", "{a: ": "}", "- ": ""}[opening]
    deepest = opening * MAX_DEPTH + "1" + closing * MAX_DEPTH
    assert json.dumps(value_of(deepest)).count("1") == 1
    for too_deep in (opening + deepest + closing, opening * 100_000):
        with pytest.raises(RecipeError, match=rf"recipe\.yaml:1 nested deeper than {MAX_DEPTH}"):
            value_of(too_deep)


def test_floods_of_aliases_are_refused(monkeypatch):
    many = "a: &a 1\nb: [" + "*a," * (MAX_ALIASES + 1) + "]"
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2 more than 100 aliases"):
        value_of(many)
    assert len(value_of(many.replace("*a,", "", 1))["b"]) == MAX_ALIASES
    with pytest.raises(RecipeError, match="nested deeper"):
        value_of("&a [*a, *a]")
    monkeypatch.setattr(strict_yaml, "MAX_VALUES", 20_000)
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
    )
    with pytest.raises(RecipeError, match="aliases make more than 20,000 values"):
        value_of(laughs)


def test_every_value_has_its_line():
    text = "name: x\nsources:\n  - name: a\n    clean: [unicode,\n      {length: {min_chars: 2}}]\n\n  - &b {name: c}\n"
    located = parse(text, "r")
    assert located.lines == {
        (): 1, ("name",): 1, ("sources",): 2, ("sources", 0): 3, ("sources", 0, "name"): 3, ("sources", 0, "clean"): 4,
        ("sources", 0, "clean", 0): 4, ("sources", 0, "clean", 1): 5, ("sources", 0, "clean", 1, "length"): 5,
        ("sources", 0, "clean", 1, "length", "min_chars"): 5, ("sources", 1): 7, ("sources", 1, "name"): 7,
    }  # fmt: skip


def test_empty_document_is_none():
    assert parse("", "r").value is None and parse("# nothing\n", "r").value is None


def test_file_is_read_as_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "recipe.yaml"
    for data in ("名: 甄嬛\r\nb: 1\r\n".encode(), "名: 甄嬛\nb: 1\n".encode("utf-8-sig")):
        path.write_bytes(data)
        assert load(path).value == {"名": "甄嬛", "b": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("名: 1".encode("gb18030"), "not UTF-8 at byte 0; save it as UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than 1,048,576 bytes"),
        (None, "cannot be read: No such file"),
    ],
)
def test_file_that_cannot_be_read_is_named(tmp_path, data, message):
    path = tmp_path / "recipe.yaml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(RecipeError, match=f"^{path}: {message}"):
        load(path)

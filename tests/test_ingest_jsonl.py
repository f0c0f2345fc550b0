"""The JSONL ingestor: values come back exactly, and what cannot be read is quarantined with its place."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sftdata.ingestors.jsonl as jsonl_module
from sftdata.errors import DataError, RecipeError
from sftdata.ingestors._json_keys import MAX_BYTES
from sftdata.ingestors.jsonl import jsonl
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

NUM_CASES = int(os.environ.get("SFTDATA_FUZZ_TABLES", "150"))

SHARED_CHAT = Path(__file__).resolve().parents[2] / "shared" / "data" / "chat"


def read(folder: Path, data: bytes, name: str = "a.jsonl", **options: str) -> list[Record | Bad]:
    """Ingest `data` as a file and check what holds of every file: keys count from 0, reasons are known."""
    path = folder / name
    path.write_bytes(data)
    rows = list(jsonl(InputFile(path, name), **options))
    assert [row.key for row in rows] == [str(number) for number in range(len(rows))]
    assert all(row.reason in QUARANTINE_REASONS for row in rows if isinstance(row, Bad))
    return rows


def fields(row: Record | Bad) -> dict[str, Any]:
    assert isinstance(row, Record), row
    return row.fields


def test_jsonl_splits_lines_at_line_feeds_alone(tmp_path: Path) -> None:
    data = '{"a": "x\u2028y\u0085z"}\r\n\n  \n{"a": 2}'.encode()
    assert [fields(row) for row in read(tmp_path, data)] == [{"a": "x\u2028y\u0085z"}, {"a": 2}]


def test_jsonl_skips_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf{"a": 1}\n') == [Record("0", {"a": 1})]


def test_jsonl_reads_other_encodings(tmp_path: Path) -> None:
    text = '{"a": "你好"}\n{"a": "再见"}\n'
    wanted = [Record("0", {"a": "你好"}), Record("1", {"a": "再见"})]
    assert read(tmp_path, text.encode("gb18030"), encoding="gbk") == wanted
    assert read(tmp_path, text.encode("utf-16")) == wanted


def test_jsonl_refuses_an_unknown_encoding(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown text encoding 'base64'"):
        read(tmp_path, b"{}", encoding="base64")


@pytest.mark.parametrize(
    ("line", "reason", "place"),
    [
        (b'{"a": }', "json_syntax", "line 2, column 7"),
        (b'{"a": 1', "json_syntax", "line 2, column 8"),
        (b'{"a": NaN}', "json_syntax", "line 2, column 7"),
        (b'{"a": 1e999}', "json_syntax", "1e999 is outside the range"),
        (rb'{"a": "\ud800"}', "json_syntax", "surrogate"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "json_syntax", "duplicate key 'c'"),
        (b'{"a" : 1, "a" : 2}', "json_syntax", "duplicate key 'a'"),
        (rb'{"a\\": 1, "a\\": 2}', "json_syntax", "duplicate key"),
        (rb'{"a": 1, "\u0061": 2}', "json_syntax", "duplicate key 'a'"),
        (b'{"a": "\xff"}', "encoding", "line 2, column 8"),
        (b"5", "json_object", "line 2"),
        (b"[1]", "json_object", "line 2"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "json_limits", "deeper than 256"),
        (b'{"a":' + b"[" * 100_000, "json_limits", "deeper than 256"),
        (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b', "a": 1}', "json_limits", "deeper than 256"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json_limits", "4,300 digits"),
    ],
)
def test_jsonl_quarantines_a_bad_line_alone(tmp_path: Path, line: bytes, reason: str, place: str) -> None:
    first, bad, last = read(tmp_path, b'{"n": 1}\n' + line + b'\n{"n": 2}\n')
    assert isinstance(bad, Bad)
    assert (bad.reason, bad.raw) == (reason, line[:4096])
    assert place in bad.place
    assert (fields(first), fields(last)) == ({"n": 1}, {"n": 2})


def test_jsonl_quarantines_a_line_over_the_limit_and_reads_on(tmp_path: Path) -> None:
    bad, good = read(tmp_path, b'{"a": "' + b"x" * (MAX_BYTES + 10) + b'"}\n{"a": 1}\n')
    assert isinstance(bad, Bad)
    assert (bad.reason, fields(good)) == ("too_large", {"a": 1})


def test_jsonl_keeps_integers_past_64_bits_and_strings_that_look_like_keys(tmp_path: Path) -> None:
    value = {"big": 12345678901234567890123, "less": -(2**63) - 1, "float": 1e300, "text": '"a": "a": \\"b": {"a":1}'}
    assert read(tmp_path, json.dumps(value).encode()) == [Record("0", value)]


def test_jsonl_takes_a_bare_list_of_messages_as_a_record(tmp_path: Path) -> None:
    dialogue = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    line = json.dumps(dialogue).encode()
    assert read(tmp_path, line + b"\n") == [Record("0", {"messages": dialogue})]
    assert [fields(row) for row in read(tmp_path, line + b"\n" + line)] == [{"messages": dialogue}] * 2


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_is_read_element_by_element(tmp_path: Path, indent: int | None) -> None:
    values = [{"a": 1, "b": ["x]", {"c": '}"'}]}, {"a": "你好"}, {}]
    data = b" \n" + json.dumps(values, indent=indent, ensure_ascii=False).encode() + b"\n"
    assert [fields(row) for row in read(tmp_path, data, "a.json")] == values


def test_json_array_quarantines_a_broken_element_alone(tmp_path: Path) -> None:
    first, broken, number, last = read(tmp_path, b'[{"a": 1},\n {"a": },\n 5, {"a": 2}]', "a.json")
    assert isinstance(broken, Bad) and isinstance(number, Bad)
    assert (broken.reason, broken.raw, broken.place[:16]) == ("json_syntax", b'{"a": }', "line 2, column 7")
    assert (number.reason, fields(first), fields(last)) == ("json_object", {"a": 1}, {"a": 2})


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (b'{"a": 2', "ends inside an element"),
        (b"", "ends inside an element"),
        (b'"open', "ends inside an element"),
        (b'{"a": [}, {"a": 3}]', "do not match"),
        (b'{"a": 2} {"a": 3}]', "expected , or ]"),
        (b'{"a": 2}] x', "after the end"),
        (b'{"a": 2}', "not closed"),
    ],
)
def test_json_array_that_cannot_be_read_on_gives_one_bad_record(tmp_path: Path, rest: bytes, message: str) -> None:
    rows = read(tmp_path, b'[{"a": 1},\n' + rest, "a.json")
    assert rows[0] == Record("0", {"a": 1})
    bad = [row for row in rows if isinstance(row, Bad)]
    assert [row.reason for row in bad] == ["json_syntax"]
    assert message in bad[0].place and rows[-1] is bad[0]


def test_json_array_longer_than_a_block_comes_back(tmp_path: Path) -> None:
    values = [{"n": n, "text": 'wörd "x" ] ' * (n % 97)} for n in range(6000)] + [{"long": "y" * 3_000_000}]
    data = json.dumps(values, ensure_ascii=False).encode()
    assert len(data) > 5 << 20
    assert [fields(row) for row in read(tmp_path, data, "a.json")] == values


def test_jsonl_reads_compressed_files_and_names_damaged_ones(tmp_path: Path) -> None:
    data = gzip.compress(b'{"a": 1}\n' * 1000)
    assert len(read(tmp_path, data, "a.jsonl.gz")) == 1000
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path, data[:-12], "a.jsonl.gz")


def test_empty_jsonl_has_no_records(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == read(tmp_path, b"\n \n") == read(tmp_path, b"[]") == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=5), min_size=1, max_size=6)


@settings(max_examples=NUM_CASES, deadline=None)
@given(records=RECORDS, ascii_only=st.booleans(), spaces=st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]))
def test_json_comes_back_from_lines_and_arrays(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], ascii_only: bool, spaces: tuple[str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    lines = [json.dumps(record, ensure_ascii=ascii_only, separators=spaces).encode() for record in records]
    wanted = [Record(str(number), record) for number, record in enumerate(records)]
    assert read(folder, b"\n".join(lines)) == wanted
    assert read(folder, b"[" + b" ,\n".join(lines) + b"\n]") == wanted


@settings(max_examples=300, deadline=None)
@given(data=st.lists(st.sampled_from([*b'[]{}",:\\\n 1an\xe4\xbd\xa0', *b'""\n\n']), max_size=60).map(bytes))
def test_jsonl_never_fails_on_noise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    rows = read(tmp_path_factory.getbasetemp(), data)
    assert bool(rows) or not data.strip() or b"[" in data


@pytest.mark.skipif(not SHARED_CHAT.is_dir(), reason="the shared chat samples are not here")
def test_jsonl_reads_real_chat_files_without_a_bad_record() -> None:
    paths = sorted(SHARED_CHAT.glob("*.json*"))
    assert len(paths) >= 5
    for path in paths:
        text = path.read_text(encoding="utf-8")
        wanted = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
        assert [fields(row) for row in jsonl(InputFile(path, path.name))] == wanted


@settings(max_examples=NUM_CASES, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(['{"a": "好"}', "", "  ", "\t", "{broken", "\r", "\ufeff{}", '[{"role": "user", "content": "x"}]']),
        max_size=60,
    ),
    ends=st.booleans(),
    size=st.integers(min_value=1, max_value=80),
)
def test_cut_into_pieces_shows_nowhere(
    lines: list[str], ends: bool, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "rows.jsonl"
    path.write_bytes(("\n".join(['{"a": 0}', *lines]) + ("\n" if ends else "")).encode())
    whole = InputFile(path, "rows.jsonl")
    with mock.patch.object(jsonl_module, "PIECE_BYTES", size):
        pieces = jsonl_module.line_pieces(whole)
    assert sum(piece.length for piece in pieces) == (path.stat().st_size if pieces else 0)
    assert pieces or path.stat().st_size < 2 * size
    if pieces:
        cut = [row for piece in pieces for row in jsonl(replace(whole, piece=piece))]
        assert cut == list(jsonl(whole)) and len(cut) > 0


def test_arrays_compressed_and_recoded_files_are_read_in_one_go(tmp_path: Path) -> None:
    rows = [{"n": number} for number in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "array.json": json.dumps(rows, indent=1).encode(),
        "lines.jsonl.gz": gzip.compress(lines.encode()),
        "wide.jsonl": lines.encode("utf-16"),
        "marked.jsonl": b"\xef\xbb\xbf" + lines.encode(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with mock.patch.object(jsonl_module, "PIECE_BYTES", 10):
            assert jsonl_module.line_pieces(InputFile(tmp_path / name, name)) == []


HIDING = [
    '{"a": 1, "a": 2}',
    '{"a" \t : 1, "b": 2, "a":3}',
    '{"messages": [{"role": "user", "role": "x"}]}',
    '{"messages": [{"tool": {"x": [{"y": 1, "y": 2}]}}]}',
    r'{"a\\": 1, "a\\": ": \" \":"}',
    '{"a"' + " " * 20 + ': 1, "a": 2}',
    '{"n": 18446744073709551616}',
    '{"n": [{"m": -9223372036854775809}]}',
    '{"deep": ' + "[" * 300 + "]" * 300 + "}",
]


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("plain", ['{"a": "x", "b": "y"}', '{"messages": [{"role": "user", "content": "\\": 1:"}], "n": 1}'])
def test_jsonl_looks_into_every_record_of_many(tmp_path: Path, hiding: str, plain: str) -> None:
    (alone,) = read(tmp_path, hiding.encode())
    rows = read(tmp_path, "\n".join([plain] * 700 + [hiding] + [plain] * 700).encode())
    assert isinstance(rows[700], Bad) == isinstance(alone, Bad) and len(rows) == 1401
    assert [fields(row) for row in rows[:700] + rows[701:]] == [json.loads(plain)] * 1400
    if isinstance(alone, Record):
        assert fields(rows[700]) == json.loads(hiding)


def test_size_of_pieces_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "x" * 99}) + "\n", encoding="utf-8")
    path.write_bytes(path.read_bytes() * 90_000)
    file = InputFile(path, "rows.jsonl")
    assert len(jsonl_module.line_pieces(file)) == 3 and len(jsonl_module.line_pieces(file, piece_mib=1)) == 10
    assert jsonl_module.line_pieces(file, piece_mib=64) == []
    with pytest.raises(RecipeError, match="piece_mib: 0; a piece has at least 1 MiB"):
        jsonl_module.line_pieces(file, piece_mib=0)

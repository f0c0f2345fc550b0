"""The pii cleaner: numbers that are valid go, those that only look so stay; the same value keeps its placeholder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cleaning_support import answer_to, spans_of

from sftdata.cleaners.pii import KINDS, is_bank_card, is_id_card, pii
from sftdata.errors import RecipeError
from sftdata.pipeline import build
from sftdata.records import Edit

FOUND = {
    "email": ["anna.b+x@mail.example.org", "li_1@163.com"],
    "id_card": ["11010519491231002X"],
    "bank_card": ["4111111111111111", "5500-0000-0000-0004"],
    "mobile": ["13800138000", "+86 139 1234 5678", "138-0013-8000"],
    "phone": ["+44 20 7946 0958", "(212) 555-0143", "010-62345678", "212-555-0143"],
    "ip": ["8.8.8.8", "2606:4700:4700:0:0:0:0:1111"],
    "qq": ["10001234"],
    "wechat": ["wxid_abc123", "lily-2024"],
}
CUES = {"qq": "加QQ：{}，谢谢", "wechat": "微信号: {} 联系我"}

NOT_PERSONAL = [
    "1101051949123100X1", "110105194912310021", "4111111111111112", "12800138000", "138001380001", "3.14159", "192.168.0.1",
    "127.0.0.1", "version 1.2.3.4.5", "2024-11-21", "ISBN 978-7-02-000220-7", "a@b", "@user", "微信支付很方便",
    "wechat official", "QQ音乐", "订单号2024112100012345678901", "10:30:45", "100-200", "电话", "1,234,567,890",
]  # fmt: skip


def with_check(is_valid: Callable[[str], bool], digits: str) -> str:
    """Return digits with the one check character that makes them valid."""
    checks = "0123456789X" if is_valid is is_id_card else "0123456789"
    [found] = [digits + check for check in checks if is_valid(digits + check)]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_personal_data_of_each_kind_is_replaced(kind: str) -> None:
    valid, digits = {"id_card": (is_id_card, "44052419800101001")}.get(kind, (is_bank_card, "622202123456789"))
    made = [with_check(valid, digits)] if kind in ("id_card", "bank_card") else []
    for value in FOUND[kind] + made:
        for frame in (CUES[kind],) if kind in CUES else ("{}", "写信给{}吧。", "see {}, please"):
            answer = answer_to(pii, frame.format(value), role="user")
            assert answer == Edit(frame.format(f"[{kind.upper()}_1]"), "personal_data", kind, "", True), (frame, value)


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert answer_to(pii, text) == text


def test_placeholders_are_the_same_within_a_record_and_start_anew_in_the_next() -> None:
    table = spans_of(
        ("user", "mail Ann@x.org or b@x.org, call 13800138000"),
        ("assistant", "ann@x.org or +86 138 0013 8000?"),
        ("user", "b@x.org"),
        rows=[0, 0, 1],
    )
    texts = [answer.text for answer in pii(table)]
    assert texts == ["mail [EMAIL_1] or [EMAIL_2], call [MOBILE_1]", "[EMAIL_1] or [MOBILE_1]?", "[EMAIL_1]"]


def test_kinds_and_roles_are_those_asked_for() -> None:
    assert answer_to(pii, "a@x.org 8.8.8.8", kinds=["ip"]).text == "a@x.org [IP_1]"
    assert answer_to(pii, "a@x.org", roles=["user"]) == "a@x.org"
    with pytest.raises(RecipeError, match="pii: unknown kind 'emails'; did you mean 'email'"):
        answer_to(pii, "x", kinds=["emails"])


def test_the_ledger_says_what_was_found_and_shows_none_of_it(tmp_path: Path) -> None:
    row = {"instruction": "写信给anna@x.org", "output": "好的，我会写信给anna@x.org，电话13800138000。"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    source = {"name": "t", "path": "t.jsonl", "ingest": "jsonl", "clean": ["pii"], "format": "instruction"}
    recipe = {"name": "t", "tokenizer": {"train": {"vocab_size": 300}, "chat_template": "chatml"}, "sources": [source]}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    ledger = pq.read_table(build(tmp_path / "r.yaml", out=tmp_path / "out").folder / ".sftdata" / "ledger.parquet").to_pylist()
    found = [(line["turn"], line["rule"], line["evidence"], line["before"], line["after"]) for line in ledger]
    assert found == [(0, "email", "", "", ""), (1, "email, mobile", "", "", "")]
    assert all(b"anna@" not in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())

"""Replace what identifies people: addresses, numbers and accounts, by placeholders that stay the same within a dialogue."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from datetime import date
from typing import NamedTuple

import pyarrow as pa

from sftdata.cleaners._spans import Answer, check_roles
from sftdata.errors import RecipeError, suggest
from sftdata.records import Edit
from sftdata.registry import cleaner


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def is_id_card(text: str) -> bool:
    """Return whether a text is a Chinese identity number (GB 11643-1999): with a date of birth and the right check digit."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(weights, text[:17], strict=True))
    return born.year >= 1900 and "10X98765432"[total % 11] == text[17].upper()


def is_bank_card(text: str) -> bool:
    """Return whether a number is one of a payment card: 13 to 19 digits that pass the test of Luhn (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in _digits(text)]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_public_address(text: str) -> bool:
    """Return whether a text is an IP address of the open internet: private and reserved ones identify nobody."""
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


class Kind(NamedTuple):
    """One kind of personal data."""

    pattern: re.Pattern[str]
    is_real: Callable[[str], bool]
    """Whether what the pattern finds is one."""
    group: int = 0
    """The part of the match that is replaced."""


def is_account_name(text: str) -> bool:
    """Return whether a name is one of an account: it has a digit, a hyphen or an underscore, which words have not."""
    return re.search(r"[\d_-]", text) is not None


def _always(_: str) -> bool:
    return True


def _is_phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15


_EMAIL = r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9_@])"
_ID_CARD = r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])"
_BANK_CARD = r"(?:[3-6]\d{12,18}|[3-6]\d{3}(?:[ -]\d{4}){2,3}(?:[ -]\d{1,4})?)"
_MOBILE = r"(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}"
_PHONE = (
    r"(?:\+[1-9]\d{0,2}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(\d{3}\) ?\d{3}-\d{4}"
    r"|[2-9]\d{2}-\d{3}-\d{4}|\(?0\d{2,3}\)?-\d{7,8})"
)
_IP = r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{1,4}:){3,7}:?[0-9A-Fa-f]{1,4})(?![\w:]|\.\d)"
_QQ = r"(?<![A-Za-z])QQ(?:群|号码|号)?(?:\s?[:：是为]\s?|\s?)([1-9]\d{4,10})(?!\d)"
_WECHAT = (
    r"(?:微信|薇信|(?<![A-Za-z])(?:wechat|weixin|vx|wx))(?:号码|号|\s?id)?(?:\s?[:：是为]\s?|\s)([A-Za-z][\w-]{5,19})(?![\w-])"
)


def _number(pattern: str) -> re.Pattern[str]:
    """Return a pattern that does not match inside a longer number or word."""
    return re.compile(rf"(?<![0-9A-Za-z_.\-+]){pattern}(?![0-9A-Za-z_]|[.\-][0-9])", re.ASCII)


KINDS = {
    "email": Kind(re.compile(_EMAIL, re.ASCII), _always),
    "id_card": Kind(re.compile(_ID_CARD, re.ASCII), is_id_card),
    "bank_card": Kind(_number(_BANK_CARD), is_bank_card),
    "mobile": Kind(_number(_MOBILE), _always),
    "phone": Kind(_number(_PHONE), _is_phone),
    "ip": Kind(re.compile(_IP, re.ASCII), is_public_address),
    "qq": Kind(re.compile(_QQ, re.ASCII | re.IGNORECASE), _always, 1),
    "wechat": Kind(re.compile(_WECHAT, re.ASCII | re.IGNORECASE), is_account_name, 1),
}
"""Kind → how it is found, in the order in which they are looked for."""

NUMBERS = {"id_card": 18, "bank_card": 19, "mobile": 11, "phone": 15}
"""Kinds that are told apart by their last so many digits: +86 138 0000 0000 is 13800000000."""

QUICK = re.compile(r"[@0-9]|微信|wechat|weixin|vx|wx", re.IGNORECASE)
"""What a text holds in which there may be anything to find."""


def _no_files(*, kinds: list[str] | tuple[str, ...] | None = None, roles: list[str] | None = None) -> tuple[str, ...]:
    """Refuse unknown kinds and roles when the recipe is read; the step reads no files."""
    check_roles("pii", roles)
    for kind in kinds or ():
        if kind not in KINDS:
            raise RecipeError(f"pii: unknown kind {kind!r}{suggest(kind, KINDS)}")
    return ()


@cleaner(batched=True, assets=_no_files)
def pii(spans: pa.Table, *, kinds: list[str] | None = None, roles: list[str] | None = None) -> list[Answer]:
    """Replace e-mail addresses, phone, identity and card numbers, IP addresses, QQ and WeChat accounts by placeholders.

    `[EMAIL_1]` is one address wherever it stands in a record, `[EMAIL_2]` the next one. Identity numbers (身份证) must have a
    valid check character, card numbers (银行卡) pass the test of Luhn, IP addresses be public; QQ and WeChat accounts are found
    after these words alone. `kinds` are the kinds that are replaced and `roles` the roles that are looked at, by default all.
    The ledger shows what kinds were found, and nothing of the text.

    Raises RecipeError for unknown kinds and roles.
    """
    _no_files(kinds=kinds, roles=roles)
    wanted = {name: kind for name, kind in KINDS.items() if kinds is None or name in kinds}
    answers: list[Answer] = []
    names: dict[tuple[str, str], str] = {}
    current = -1
    columns = (spans[name].to_pylist() for name in ("row", "role", "text"))
    for row, role, text in zip(*columns, strict=True):
        if row != current:
            current, names = row, {}
        looked_at = (roles is None or role in roles) and QUICK.search(text)
        answers.append(_replaced(text, wanted, names) if looked_at else text)
    return answers


def _replaced(text: str, kinds: dict[str, Kind], names: dict[tuple[str, str], str]) -> Answer:
    """Return a text without personal data. names: (kind, value) → placeholder, of the record so far."""
    found = sorted(_find(text, kinds))
    if not found:
        return text
    pieces: list[str] = []
    place = 0
    for start, end, kind, value in found:
        if (kind, value) not in names:
            names[kind, value] = f"[{kind.upper()}_{1 + sum(known == kind for known, _ in names)}]"
        pieces += [text[place:start], names[kind, value]]
        place = end
    pieces.append(text[place:])
    seen = {kind for _, _, kind, _ in found}
    return Edit("".join(pieces), "personal_data", ", ".join(kind for kind in kinds if kind in seen), private=True)


def _find(text: str, kinds: dict[str, Kind]) -> Iterator[tuple[int, int, str, str]]:
    """Yield (start, end, kind, value) of what is personal, none inside another; the value is what tells two apart."""
    taken: list[tuple[int, int]] = []
    for name, kind in kinds.items():
        for match in kind.pattern.finditer(text):
            start, end = match.span(kind.group)
            value = match[kind.group]
            if kind.is_real(value) and all(end <= low or start >= high for low, high in taken):
                taken.append((start, end))
                yield start, end, name, _digits(value)[-NUMBERS[name] :] if name in NUMBERS else value.lower()

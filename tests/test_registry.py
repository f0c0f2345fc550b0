"""The registry of steps: names are unique, options come from the signature, code from outside needs leave."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from sftdata import registry
from sftdata.errors import RecipeError
from sftdata.registry import check_options, cleaner, find_step, formatter, ingestor, known_steps, option_fields, outside_modules


@pytest.fixture(autouse=True)
def own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test register steps that no other test sees."""
    registry.known_steps("cleaner")
    monkeypatch.setattr(registry, "_steps", dict(registry._steps))


def outside_module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / "palace_steps.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "palace_steps", raising=False)


def test_built_in_steps_are_the_known_ones():
    assert list(known_steps("ingestor")) == ["arrow", "csv", "dataset", "html", "jsonl", "parquet", "sql"]
    cleaners = ["boilerplate_lines", "decontaminate", "language", "length", "pii", "quality", "repetition", "slop", "terms"]
    assert list(known_steps("cleaner")) == [*cleaners, "unicode", "whitespace"]
    formatters = ["alpaca_blog", "auto", "input_output", "instruction", "messages", "source_target", "text"]
    assert list(known_steps("formatter")) == formatters


def test_every_built_in_step_has_a_line_of_help_and_typed_options():
    steps = [step for kind in registry.KINDS for step in known_steps(kind).values()]
    assert len(steps) == 25
    for step in steps:
        assert step.help.endswith(".") and len(step.help) > 20
        assert all(kind is not Any for kind, _ in option_fields(step).values())
        assert step.kind != "ingestor" or step.suffixes or step.fetch


def test_decorated_function_is_found_by_its_name_and_stays_itself():
    @cleaner
    def shout_(text: str) -> str:
        """Shout."""
        return text.upper()

    @cleaner(batched=True, libraries=("pyarrow",))
    def whisper(spans: Any) -> list[str]:
        return []

    @ingestor(suffixes=(".txt",))
    def lines(file: Any) -> Any:
        return iter(())

    @formatter
    def shout(record: dict[str, Any]) -> Any:
        return record

    assert shout_("a") == "A"
    assert find_step("cleaner", "shout").function is shout_ and find_step("cleaner", "shout").help == "Shout."
    assert find_step("formatter", "shout").function is shout
    assert find_step("cleaner", "whisper").batched and find_step("cleaner", "whisper").libraries == ("pyarrow",)
    assert find_step("ingestor", "lines").suffixes == (".txt",)


def test_ingestor_without_suffixes_is_decorated_as_it_stands(tmp_path, monkeypatch):
    outside_module(tmp_path, monkeypatch, "from sftdata import ingestor\n@ingestor\ndef letters(file):\n    yield\n")
    step = find_step("ingestor", "palace_steps:letters", allow_code=True)
    assert (step.kind, step.suffixes) == ("ingestor", ()) and step is find_step("ingestor", "letters")


def test_second_step_of_a_name_is_refused_and_the_first_stays():
    first = find_step("cleaner", "slop")
    with pytest.raises(RecipeError, match=r"cleaner 'slop' is defined twice: in sftdata\.cleaners\.slop and in test_registry"):

        @cleaner
        def slop(text: str) -> str:
            return text

    assert find_step("cleaner", "slop") is first


def test_module_that_is_loaded_anew_may_register_again(tmp_path, monkeypatch):
    outside_module(tmp_path, monkeypatch, "from sftdata.registry import cleaner\n@cleaner\ndef shout(text): return text\n")
    first = find_step("cleaner", "palace_steps:shout", allow_code=True)
    importlib.reload(sys.modules["palace_steps"])
    assert find_step("cleaner", "shout").function is not first.function


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("cleaner", "slopp", "unknown cleaner 'slopp'; did you mean 'slop'?"),
        ("ingestor", "xyz", "unknown ingestor 'xyz'; known: arrow, csv, dataset, html, jsonl, parquet, sql"),
        ("formatter", "slop", "unknown formatter 'slop'"),
        ("cleaner", "os:system", "cleaner 'os:system' runs code from outside sftdata; pass --allow-code if you trust it"),
    ],
)
def test_unknown_step_is_named_with_the_nearest(kind, name, message):
    with pytest.raises(RecipeError) as caught:
        find_step(kind, name)
    assert str(caught.value).startswith(message)


def test_code_from_outside_is_not_even_imported_without_leave(tmp_path, monkeypatch):
    outside_module(tmp_path, monkeypatch, "def shout(text, *, times: int = 1):\n    return text.upper() * times\n")
    with pytest.raises(RecipeError, match="allow-code"):
        find_step("cleaner", "palace_steps:shout")
    assert "palace_steps" not in sys.modules
    step = find_step("cleaner", "palace_steps:shout", allow_code=True)
    assert step.function("a", times=2) == "AA" and step.module == "palace_steps"
    assert check_options(step, {"times": 3}) == {"times": 3}


def test_decorated_step_from_outside_keeps_its_properties(tmp_path, monkeypatch):
    text = "from sftdata.registry import cleaner\n\n@cleaner(batched=True)\ndef shout(spans):\n    return []\n"
    outside_module(tmp_path, monkeypatch, text)
    step = find_step("cleaner", "palace_steps:shout", allow_code=True)
    assert step.batched and step is find_step("cleaner", "shout")
    assert outside_modules() == ["palace_steps"]
    with pytest.raises(RecipeError, match="'palace_steps:shout' is a cleaner, not a formatter"):
        find_step("formatter", "palace_steps:shout", allow_code=True)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "no_such_palace:shout", "cannot be imported: ModuleNotFoundError: No module named 'no_such_palace'"),
        ("", "palace_steps:shout", "cannot be imported: AttributeError: module 'palace_steps' has no attribute 'shout'"),
        ("def (", "palace_steps:shout", "cannot be imported: SyntaxError: "),
        ("raise ValueError('two\\nlines')", "palace_steps:shout", "cannot be imported: ValueError: two lines"),
        ("shout = 3", "palace_steps:shout", "is no function but int"),
        ("", ":shout", "cannot be imported: ValueError: "),
        ("from sftdata.registry import cleaner\n@cleaner\ndef slop(text): ...", "palace_steps:slop", "is defined twice"),
    ],
)
def test_outside_step_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, text, name, message):
    outside_module(tmp_path, monkeypatch, text)
    with pytest.raises(RecipeError) as caught:
        find_step("cleaner", name, allow_code=True)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_entry_points_add_steps_and_broken_ones_are_named(tmp_path, monkeypatch):
    outside_module(tmp_path, monkeypatch, "from sftdata.registry import cleaner\n@cleaner\ndef shout(text): return text\n")
    found = [EntryPoint("palace", "palace_steps", "sftdata.steps")]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "sftdata.steps" else [])
    registry._load_built_in.cache_clear()
    assert "shout" in known_steps("cleaner")
    found[:] = [EntryPoint("broken", "no_such_palace:steps", "sftdata.steps")]
    registry._load_built_in.cache_clear()
    with pytest.raises(RecipeError, match="the steps 'no_such_palace:steps' cannot be imported: ModuleNotFoundError"):
        known_steps("cleaner")


def trim(
    text: str,
    *,
    count: int,
    form: Literal["NFC", "NFKC"] = "NFC",
    names: list[str] | None = None,
    schema: float = 0.5,
    copy: bool = False,
) -> str:
    """Take options of many types, two of them named like methods of pydantic models."""
    return text


STEP = registry.Step("cleaner", "trim", trim)


def test_options_are_converted_by_the_signature_and_defaults_left_out():
    given = {"count": 3, "names": ["a"], "schema": 1, "copy": True, "form": "NFKC"}
    assert check_options(STEP, given) == given
    assert type(check_options(STEP, given)["schema"]) is float
    assert check_options(STEP, {"count": 1}) == {"count": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1, "from": 2}, "unknown option 'from' of cleaner 'trim'; did you mean 'form'?"),
        ({}, "cleaner 'trim' needs the option 'count'"),
        ({"count": "many"}, "option 'count' of cleaner 'trim': input should be a valid integer, unable to parse"),
        ({"count": 1.5}, "option 'count' of cleaner 'trim': input should be a valid integer, got a number with a fract"),
        ({"count": 1, "form": "NFX"}, "option 'form' of cleaner 'trim': input should be 'NFC' or 'NFKC', not 'NFX'"),
        ({"count": 1, "names": ["a", 3]}, "option 'names.1' of cleaner 'trim': input should be a valid string, not 3"),
        ({"count": 1, "copy": ["x" * 9999]}, "option 'copy' of cleaner 'trim': input should be a valid boolean, not ["),
    ],
)
def test_wrong_option_is_named_with_its_value(options, message):
    with pytest.raises(RecipeError) as caught:
        check_options(STEP, options)
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200


def test_option_of_a_step_without_options_says_so():
    with pytest.raises(RecipeError, match=r"unknown option 'a' of cleaner 'plain'; it has no options"):
        check_options(registry.Step("cleaner", "plain", lambda text: text), {"a": 1})


def test_untyped_and_unreadable_annotations_of_outside_steps(tmp_path, monkeypatch):
    text = (
        "def free(text, *, any=1): ...\ndef lost(text, *, a: 'Missing' = 1): ...\n"
        "class Odd: ...\ndef odd(text, *, a: Odd = None): ...\n"
    )
    outside_module(tmp_path, monkeypatch, text)
    free, lost, odd = (find_step("cleaner", f"palace_steps:{name}", allow_code=True) for name in ("free", "lost", "odd"))
    assert check_options(free, {"any": {"thing": 1}}) == {"any": {"thing": 1}}
    with pytest.raises(RecipeError, match="its annotations cannot be read: name 'Missing' is not defined"):
        check_options(lost, {"a": 1})
    with pytest.raises(RecipeError, match="option 'a' of cleaner 'palace_steps:odd': a recipe can give no <class"):
        check_options(odd, {"a": 1})

"""The work folder: a result counts once it is complete and undamaged, under the fingerprint of all that it depends on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from child_process import end_child, operations, run_child, start_child
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import storage
from sftdata.errors import RecipeError
from sftdata.work import ENTRY, Task, code_fingerprint, fingerprint, library_version, read_entry, remove_leftovers, run_task

RUN = """
import sys
from sftdata import storage
from sftdata.work import Task, run_task
def body(folder, spec):
    storage.make_folder(folder / "deep")
    storage.write_bytes(folder / "deep" / "rows", b"rows" * 1000, durable=False)
    storage.write_bytes(folder / "keys", b"keys" * 1000, durable=False)
    return {"rows": 1000}
print(run_task(Task("prepare", "a.jsonl", "f" * 32, sys.argv[1], {}), body))
"""


def task_in(folder: Path) -> Task:
    return Task("prepare", "a.jsonl", "f" * 32, str(folder), {"text": "rows"})


class Body:
    """A task's body that counts its calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, folder: Path, spec: dict) -> dict:
        self.num_calls += 1
        storage.make_folder(folder / "deep")
        storage.write_bytes(folder / "deep" / "rows", spec["text"].encode(), durable=False)
        storage.write_bytes(folder / "keys", b"keys", durable=False)
        return {"counts": {1: (2, 3)}, "名": 0.1}


def test_finished_task_is_not_run_again(tmp_path):
    body, task = Body(), task_in(tmp_path)
    first = run_task(task, body)
    assert body.num_calls == 1
    assert run_task(task, body) == first == {"counts": {"1": [2, 3]}, "名": 0.1}
    assert body.num_calls == 1
    assert sorted(path.name for path in task.entry.iterdir()) == ["deep", ENTRY, "keys"]


@pytest.mark.parametrize("name", ["deep/rows", "keys", ENTRY])
def test_entry_with_any_flipped_bit_is_made_again(tmp_path, name):
    body, task = Body(), task_in(tmp_path)
    run_task(task, body)
    path = task.entry / name
    whole = path.read_bytes()
    for number, place in enumerate({0, len(whole) // 2, len(whole) - 1}, 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_entry(task.entry) is None
        run_task(task, body)
        assert body.num_calls == 1 + number
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["missing", "short", "folder"])
def test_entry_with_a_file_gone_or_cut_is_made_again(tmp_path, damage):
    body, task = Body(), task_in(tmp_path)
    run_task(task, body)
    path = task.entry / "keys"
    path.write_bytes(b"key") if damage == "short" else path.unlink()
    if damage == "folder":
        path.mkdir()
    run_task(task, body)
    assert body.num_calls == 2 and path.read_bytes() == b"keys"


def test_task_killed_at_any_operation_counts_as_done_only_when_complete(tmp_path):
    names = operations(RUN, tmp_path / "log", tmp_path / "whole")
    assert {"mkdir", "create", "write", "rename", "remove"} <= set(names)
    done = []
    for number in range(1, len(names) + 1):
        work = tmp_path / f"killed-{number}"
        task = task_in(work)
        assert run_child(RUN, work, SFTDATA_FAILPOINT=f"any:{number}:kill").returncode == -9
        done.append(read_entry(task.entry) is not None)
        remove_leftovers(work)
        assert [path.name for path in work.glob("*/*")] == ([task.fingerprint] if done[-1] else [])
        assert run_child(RUN, work).stdout == "{'rows': 1000}\n"
        assert read_entry(task.entry) == {"rows": 1000}
    assert len(names) > 8 and not any(done)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_body_that_raises_leaves_no_entry(tmp_path, error):
    task = task_in(tmp_path)

    def body(folder: Path, spec: dict) -> dict:
        storage.write_bytes(folder / "rows", b"half")
        raise error

    with pytest.raises(error):
        run_task(task, body)
    assert read_entry(task.entry) is None
    assert list((tmp_path / "prepare").iterdir()) == []


def test_summary_that_is_no_json_leaves_no_entry(tmp_path):
    with pytest.raises(TypeError):
        run_task(task_in(tmp_path), lambda folder, spec: {"rows": object()})
    assert list((tmp_path / "prepare").iterdir()) == []


def test_entry_that_another_build_finished_first_stays(tmp_path):
    task = task_in(tmp_path)
    seen = []

    def slow_body(folder: Path, spec: dict) -> dict:
        other = tmp_path / "other"
        run_task(task_in(other), Body())
        task_in(other).entry.rename(task.entry)
        seen.append((task.entry / "keys").stat().st_ino)
        return Body()(folder, spec)

    run_task(task, slow_body)
    assert seen == [(task.entry / "keys").stat().st_ino]
    assert [path.name for path in (tmp_path / "prepare").iterdir()] == [task.fingerprint]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    code = RUN.replace("return {", "print('running', flush=True); import time; time.sleep(60); return {")
    child = start_child(code, tmp_path)
    try:
        [temporary] = tmp_path.glob("prepare/.*")
        remove_leftovers(tmp_path)
        assert temporary.is_dir()
    finally:
        end_child(child)
    assert temporary.is_dir()
    remove_leftovers(tmp_path)
    assert not temporary.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_fingerprints_are_equal_exactly_where_the_values_are(one, two):
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same
    assert len(fingerprint(one)) == 32


def test_fingerprint_is_the_same_in_every_process():
    code = """
from pathlib import Path
from sftdata.work import fingerprint
names = {"palace", "garden", "lamp", "screen"}
print(list(names) != sorted(names), fingerprint({"b": names, "a": (1, "\\ud800"), "c": Path("x")}))
"""
    outputs = [run_child(code, PYTHONHASHSEED=str(seed)).stdout.split() for seed in range(4)]
    assert any(unsorted == "True" for unsorted, _ in outputs)
    assert len({digest for _, digest in outputs}) == 1


def test_fingerprint_refuses_a_value_without_a_stable_text():
    with pytest.raises(TypeError, match="Task cannot be part of a fingerprint"):
        fingerprint({"task": task_in(Path("work"))})
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


FINGERPRINT = """
import sys
sys.path.insert(0, sys.argv[1])
from sftdata.work import code_fingerprint
print(code_fingerprint(sys.argv[2]), any(name.startswith("palace.") for name in sys.modules))
"""
PACKAGE = {
    "palace/__init__.py": "WIDTH = 1\n",
    "palace/steps/__init__.py": "",
    "palace/steps/trim.py": (
        "import json\nfrom palace import rules\nfrom .. import WIDTH\nfrom . import sibling\n"
        "def trim(text):\n    from palace.late import cut\n    return cut(text)\n"
    ),
    "palace/steps/sibling.py": "import palace.deep.far as far\n",
    "palace/deep/__init__.py": "",
    "palace/deep/far.py": "FAR = 1\n",
    "palace/rules.py": "RULES = ['a']\n",
    "palace/late.py": "def cut(text):\n    return text\n",
    "palace/unrelated.py": "NOTHING = 1\n",
}


def test_code_fingerprint_changes_with_every_module_that_is_reached(tmp_path):
    for name, text in PACKAGE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def now() -> str:
        digest, imported = run_child(FINGERPRINT, tmp_path, "palace.steps.trim").stdout.split()
        assert imported == "False"
        return digest

    first = now()
    seen = {first}
    for name in PACKAGE:
        (tmp_path / name).write_text(PACKAGE[name] + "# changed\n")
        digest = now()
        assert (digest == first) == (name == "palace/unrelated.py"), name
        seen.add(digest)
        (tmp_path / name).write_text(PACKAGE[name])
    assert now() == first and len(seen) == len(PACKAGE)


def test_code_fingerprint_of_a_single_module_follows_its_text(tmp_path):
    seen = set()
    for text in ("A = 1\n", "A = 2\n"):
        (tmp_path / "lonely.py").write_text(text)
        seen.add(run_child(FINGERPRINT, tmp_path, "lonely").stdout)
    assert len(seen) == 2


def test_code_fingerprint_of_our_steps_differs_and_the_main_script_is_refused():
    digests = {code_fingerprint(f"sftdata.{name}") for name in ("preparing", "planning", "cleaners.slop", "ingestors.csv")}
    assert len(digests) == 4
    with pytest.raises(RecipeError, match="put it into a module"):
        code_fingerprint("__main__")


def test_library_version_is_the_installed_one_or_absent():
    assert library_version("pyarrow").split(".")[0].isdigit()
    assert library_version("no-such-distribution") == "absent"


def test_leftovers_of_another_machine_stay_until_all_are_asked_for(tmp_path):
    theirs = tmp_path / "prepare" / f".{'f' * 32}.tmp-elsewhere-1"
    theirs.mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert theirs.exists()
    remove_leftovers(tmp_path, of_all_machines=True)
    assert not theirs.exists()

"""The storage seam: a file or a folder is absent, old or complete, whatever kills or fails the process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest
import xxhash
from child_process import end_child, operations, run_child, start_child
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import storage
from sftdata.errors import LockedError, StorageError

WRITE = """
import sys
from pathlib import Path
from sftdata import storage
storage.write_bytes(Path(sys.argv[1]), b"new" * 1000)
"""
PUBLISH = """
import sys
from pathlib import Path
from sftdata import storage
folder, new = map(Path, sys.argv[1:])
with storage.lock(folder):
    storage.recover(folder)
    storage.publish(new, folder)
"""
RECOVER = """
import sys
from pathlib import Path
from sftdata import storage
storage.recover(Path(sys.argv[1]))
"""
HOLD = """
import sys, time
from pathlib import Path
from sftdata import storage
with getattr(storage, sys.argv[2])(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
FILES = ("manifest", "train/data", "train/state", "tokenizer/vocabulary")


def make_folder(folder: Path, text: str) -> Path:
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def state(folder: Path) -> str:
    """Return what a reader finds: `absent`, or the text that all files hold; a mix of texts fails."""
    if not folder.exists():
        return "absent"
    texts = {(folder / name).read_text() for name in FILES}
    assert len(texts) == 1
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(FILES)
    return texts.pop()


def test_write_goes_through_every_operation_in_order(tmp_path):
    target = tmp_path / "file"
    assert operations(WRITE, tmp_path / "log", target) == ["create", "write", "fsync", "rename", "fsync_folder"]
    assert target.read_bytes() == b"new" * 1000


def test_undurable_write_flushes_nothing(tmp_path):
    code = WRITE.replace("* 1000)", "* 1000, durable=False)")
    assert operations(code, tmp_path / "log", tmp_path / "file") == ["create", "write", "rename"]


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("action", ["kill", "enospc", "eio", "short"])
def test_write_that_fails_anywhere_leaves_old_or_new(tmp_path, action, old):
    target = tmp_path / "file"
    found = []
    for number in [2] if action == "short" else range(1, 6):
        target.unlink(missing_ok=True) if old is None else target.write_bytes(old)
        child = run_child(WRITE, target, SFTDATA_FAILPOINT=f"any:{number}:{action}")
        assert child.returncode == (-9 if action == "kill" else 74)
        found.append(target.read_bytes() if target.exists() else None)
        leftovers = [path for path in tmp_path.iterdir() if path != target]
        assert bool(leftovers) == (action == "kill" and 2 <= number <= 4)
        for path in leftovers:
            path.unlink()
    new = b"new" * 1000
    assert found == ([old] if action == "short" else [old] * 4 + [new])


def test_full_disk_names_the_path_and_the_cure(tmp_path):
    child = run_child(WRITE, tmp_path / "file", SFTDATA_FAILPOINT="write:1:enospc")
    assert child.returncode == 74
    [line] = child.stderr.splitlines()
    assert line.startswith(f"StorageError: {tmp_path}/.file.tmp-")
    assert line.endswith("No space left on device; free some space and run again")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("action", ["kill", "enospc", "eio"])
def test_publish_that_fails_anywhere_leaves_old_or_new(tmp_path, action, old):
    folder, new = tmp_path / "shards", tmp_path / "new"

    def prepare() -> None:
        for path in (folder, new, storage.old_name(folder)):
            shutil.rmtree(path, ignore_errors=True)
        make_folder(new, "new")
        if old:
            make_folder(folder, "old")

    prepare()
    names = operations(PUBLISH, tmp_path / "log", folder, new)
    assert state(folder) == "new"
    assert names.count("rename") == 1 + old and names.count("fsync") == len(FILES) and names.count("fsync_folder") >= 3
    seen = []
    for number in range(1, len(names) + 1):
        prepare()
        child = run_child(PUBLISH, folder, new, SFTDATA_FAILPOINT=f"any:{number}:{action}")
        assert child.returncode == (-9 if action == "kill" else 74)
        seen.append(state(folder))
        assert run_child(RECOVER, folder).returncode == 0
        assert state(folder) == (seen[-1] if seen[-1] != "absent" or not old else "old")
        assert not storage.old_name(folder).exists()
    before = "old" if old else "absent"
    assert {before, "new"} <= set(seen) <= {"absent", "old", "new"}
    assert seen == sorted(seen, key=[before, "absent", "new"].index)
    if old:
        assert ("absent" in seen) == (action == "kill")


@pytest.mark.parametrize("published", [False, True])
def test_recover_that_is_killed_is_mended_by_the_next(tmp_path, published):
    folder = tmp_path / "shards"
    aside = storage.old_name(folder)

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(aside, "old")
        if published:
            make_folder(folder, "new")

    prepare()
    names = operations(RECOVER, tmp_path / "log", folder)
    num_folders = 3
    assert names == (["remove"] * (len(FILES) + num_folders) if published else ["rename", "fsync_folder"])
    for number in range(1, len(names) + 1):
        prepare()
        assert run_child(RECOVER, folder, SFTDATA_FAILPOINT=f"any:{number}:kill").returncode == -9
        assert state(folder) in (("new",) if published else ("old", "absent"))
        storage.recover(folder)
        assert state(folder) == ("new" if published else "old")
        assert not aside.exists()


def test_recover_removes_an_old_folder_that_is_half_removed(tmp_path):
    folder = make_folder(tmp_path / "shards", "new")
    aside = make_folder(storage.old_name(folder), "old")
    (aside / FILES[0]).unlink()
    storage.recover(folder)
    assert state(folder) == "new" and not aside.exists()


def test_publish_mends_an_interrupted_one_first(tmp_path):
    folder = tmp_path / "shards"
    make_folder(storage.old_name(folder), "older")
    storage.publish(make_folder(tmp_path / "new", "new"), folder)
    assert state(folder) == "new" and sorted(os.listdir(tmp_path)) == ["shards"]


def test_second_process_gets_the_lock_only_when_the_first_is_gone(tmp_path):
    folder = tmp_path / "deep" / "shards"
    holder = start_child(HOLD, folder, "lock")
    try:
        second = run_child(PUBLISH, folder, tmp_path / "new")
        assert second.returncode == 75
        assert second.stderr.startswith(f"LockedError: {folder}: process {holder.pid} is building this folder")
    finally:
        end_child(holder)
    with storage.lock(folder), pytest.raises(LockedError, match=str(os.getpid())), storage.lock(folder):
        pass
    with storage.lock(folder):
        assert (tmp_path / "deep" / ".shards.lock").is_file()


def test_lock_that_the_disk_does_not_know_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"\.shards\.lock: No locks available"), storage.lock(tmp_path / "shards"):
        pass


def test_folder_is_in_use_while_a_process_holds_it(tmp_path):
    assert not storage.is_in_use(tmp_path) and not storage.is_in_use(tmp_path / "none")
    holder = start_child(HOLD, tmp_path, "in_use")
    try:
        assert storage.is_in_use(tmp_path)
    finally:
        end_child(holder)
    assert not storage.is_in_use(tmp_path)


def test_body_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), storage.create(target) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=8))
def test_digest_is_that_of_all_bytes_written(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "digest"
    with storage.create(path, durable=False) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
        assert file.tell() == sum(map(len, pieces))
    data = b"".join(pieces)
    assert path.read_bytes() == data
    assert file.hexdigest() == storage.file_digest(path) == xxhash.xxh3_128_hexdigest(data)


def test_json_is_written_as_utf8_with_a_final_newline(tmp_path):
    digest = storage.write_json(tmp_path / "a.json", {"名": ["甄嬛", 1]})
    data = (tmp_path / "a.json").read_bytes()
    assert data == '{\n  "名": [\n    "甄嬛",\n    1\n  ]\n}\n'.encode()
    assert digest == xxhash.xxh3_128_hexdigest(data)


def test_link_shares_the_file_and_copies_it_across_disks(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.write_bytes(b"tokens" * 1000)
    storage.link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)
    with pytest.raises(StorageError, match="File exists"):
        storage.link_or_copy(source, tmp_path / "linked")

    def refuse(old, new):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    storage.link_or_copy(source, tmp_path / "copied")
    assert not (tmp_path / "copied").samefile(source)
    assert (tmp_path / "copied").read_bytes() == source.read_bytes()


def test_remove_tree_takes_a_link_and_not_what_it_leads_to(tmp_path):
    folder = make_folder(tmp_path / "folder", "kept")
    (tmp_path / "link").symlink_to(folder)
    storage.remove_tree(tmp_path / "link")
    assert state(folder) == "kept" and not (tmp_path / "link").is_symlink()
    storage.remove_tree(folder)
    storage.remove_tree(folder)
    assert not folder.exists()


@pytest.mark.parametrize("operation", ["mkdir", "remove"])
@pytest.mark.parametrize(("action", "text"), [("enospc", "No space left"), ("eio", "Input/output error")])
def test_failing_folder_operations_name_the_folder(tmp_path, operation, action, text):
    call = {"mkdir": "make_folder", "remove": "remove_tree"}[operation]
    code = f"import sys; from pathlib import Path; from sftdata import storage; storage.{call}(Path(sys.argv[1]))"
    child = run_child(code, tmp_path / "here", SFTDATA_FAILPOINT=f"{operation}:1:{action}")
    assert child.returncode == 74
    assert child.stderr.startswith(f"StorageError: {tmp_path / 'here'}: {text}")


def test_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        storage.make_folder(tmp_path / "file" / "folder")
    with pytest.raises(StorageError, match="missing: No such file"):
        storage.file_digest(tmp_path / "missing")

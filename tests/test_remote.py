"""Builds and inputs behind URLs: `file://` here, `s3://` against a local server in child processes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from build_support import file_bytes, run_command, write_small_recipe
from child_process import run_child
from object_store import s3_server

import sftdata
from sftdata.errors import DamagedError, DataError, SftdataError
from sftdata.publishing import publish
from sftdata.remote import Store, copy_inputs, is_url

has_s3 = all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask_cors"))
needs_s3 = pytest.mark.skipif(not has_s3, reason="s3fs and moto are not installed: pip install 'sftdata[dev]'")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of copied builds for each test."""
    monkeypatch.setenv("SFTDATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_published_build_is_read_and_verified_by_its_url(tmp_path: Path, small: Path) -> None:
    url = (tmp_path / "store" / "small").as_uri()
    done = publish(small, url)
    assert done.num_uploaded == done.num_files > 10
    assert [path.name for path in (tmp_path / "store" / "small").iterdir() if path.is_dir()] == [done.generation]
    opened = sftdata.open_shards(url)
    assert file_bytes(opened.folder) == file_bytes(small) and opened.splits["train"].num_rows > 3
    found = sftdata.verify(url)
    assert found.sound and found.folder == url and found.num_rows > 3


def test_publication_that_was_cut_off_changes_nothing_and_goes_on(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = (tmp_path / "store").as_uri()
    other = sftdata.build(write_small_recipe(tmp_path / "raw", seed=7), out=tmp_path / "other")
    first = publish(small, url)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(DataError("cut off")))
        with pytest.raises(DataError, match="cut off"):
            publish(other.folder, url)
    assert sftdata.open_shards(url).manifest["xxh3"] == first.generation
    assert len(list((tmp_path / "store").glob("*/README.md"))) == 2, "the files were there, the manifest was not"
    again = publish(other.folder, url, prune=True)
    assert again.num_uploaded == 0 and again.removed == [first.generation]
    assert sftdata.open_shards(url).manifest["xxh3"] == again.generation != first.generation
    assert not (tmp_path / "store" / first.generation).exists()


def test_damage_in_the_store_is_found_by_verify_and_refused_by_open(tmp_path: Path, small: Path) -> None:
    url = (tmp_path / "store").as_uri()
    generation = tmp_path / "store" / publish(small, url).generation
    shard = next(generation.glob("train/*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (generation / "recipe.yaml").unlink()
    problems = sftdata.verify(url).problems
    assert any(shard.name in problem for problem in problems) and any("recipe.yaml" in problem for problem in problems)
    with pytest.raises(DamagedError, match="is missing or damaged; publish the build again"):
        sftdata.open_shards(url)


def test_damaged_build_is_not_published_and_an_empty_place_is_no_build(tmp_path: Path) -> None:
    built = sftdata.build(write_small_recipe(tmp_path / "raw"), out=tmp_path / "out").folder
    (built / "README.md").write_text("changed")
    with pytest.raises(DamagedError, match=r"README.md is missing or damaged; `sftdata repair"):
        publish(built, (tmp_path / "store").as_uri())
    with pytest.raises(DataError, match="holds no published build"):
        sftdata.open_shards((tmp_path / "store").as_uri())


def test_inputs_by_url_give_the_rows_of_the_same_inputs_by_path(tmp_path: Path, small: Path) -> None:
    raw = write_small_recipe(tmp_path / "raw").parent
    sources = [f"sources.talk.path={(raw / 'talk').as_uri()}/*.jsonl", f"sources.faq.path={(raw / 'faq.csv').as_uri()}"]
    for overrides in (sources, [f"sources.talk.path={(raw / 'talk').as_uri()}/", *sources[1:]]):
        built = sftdata.build(raw / "recipe.yaml", out=tmp_path / "out", overrides=overrides)
        by_url, by_path = file_bytes(built.folder), file_bytes(small)
        shards = [name for name in by_path if name.endswith((".arrow", ".parquet"))]
        assert len(shards) > 4 and all(by_url[name] == by_path[name] for name in shards)


def test_inputs_are_copied_again_only_where_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (store / name).write_text(name)
    copied: list[str] = []
    download = Store.download
    monkeypatch.setattr(Store, "download", lambda self, name, path: copied.append(name) or download(self, name, path))
    folder = copy_inputs(store.as_uri(), tmp_path / "work")
    (store / "b.jsonl").write_text("longer than before")
    (store / "c.jsonl").unlink()
    assert copy_inputs(store.as_uri(), tmp_path / "work") == folder
    assert sorted(copied) == ["a.jsonl", "b.jsonl", "b.jsonl", "c.jsonl"]
    assert sorted(path.name for path in folder.glob("*")) == [".index.json", "a.jsonl", "b.jsonl"]


def test_urls_without_objects_or_library_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_url("s3://bucket/x") and not is_url("s3:/bucket/x") and not is_url("C:\\data") and not is_url(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such object, and none below it"):
        copy_inputs((tmp_path / "nowhere").as_uri(), tmp_path / "work")
    with pytest.raises(SftdataError, match="Protocol not known: gopher"):
        sftdata.open_shards("gopher://place/build")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SftdataError, match=r"run: pip install 'sftdata\[s3\]'"):
        sftdata.open_shards("s3://bucket/build")


S3 = """
import json, sys
from pathlib import Path
import fsspec
import sftdata
from sftdata.publishing import publish
raw, small, out = map(Path, sys.argv[1:])
store = fsspec.filesystem("s3")
store.mkdir("bucket")
store.put(f"{raw}/talk/", "bucket/raw/talk/", recursive=True)
overrides = ["sources.talk.path=s3://bucket/raw/talk"]
built = sftdata.build(raw / "recipe.yaml", out=out, overrides=overrides).folder
done = publish(built, "s3://bucket/builds/small")
again = publish(built, "s3://bucket/builds/small")
opened = sftdata.open_shards("s3://bucket/builds/small")
sound = sftdata.verify("s3://bucket/builds/small").sound
store.pipe_file(f"bucket/builds/small/{done.generation}/README.md", b"changed")
print(json.dumps([str(opened.folder), done.num_uploaded, again.num_uploaded, sound,
                  sftdata.verify("s3://bucket/builds/small").problems]))
"""


@needs_s3
def test_inputs_and_builds_on_s3(tmp_path: Path, small: Path) -> None:
    raw = write_small_recipe(tmp_path / "raw").parent
    with s3_server() as environment:
        child = run_child(S3, raw, small, tmp_path / "out", seconds=120, **environment)
        missing = run_command("verify", "s3://bucket/nothing", folder=tmp_path, **environment)
    assert child.returncode == 0, child.stderr
    folder, num_uploaded, num_again, sound, problems = json.loads(child.stdout)
    assert num_uploaded > 10 and num_again == 0 and sound
    assert problems == ["README.md: does not match its checksum"]
    ours, theirs = file_bytes(Path(folder)), file_bytes(small)
    assert all(ours[name] == theirs[name] for name in theirs if name.endswith((".arrow", ".parquet")))
    assert missing.returncode == 1 and "s3://bucket/nothing: holds no published build" in missing.stderr

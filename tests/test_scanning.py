"""What goes into a build is found the same by workers as by one process."""

from __future__ import annotations

import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from sftdata import scanning
from sftdata.errors import DataError, StorageError
from sftdata.executors.local import ProcessExecutor, SerialExecutor
from sftdata.recipe import Source, StepSpec
from sftdata.scanning import Listed, list_inputs, num_bytes, scan


@pytest.fixture
def listed(tmp_path: Path) -> list[Listed]:
    """Two sources: a folder with a file large enough for pieces, and an archive of two files, which is named twice."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "large.jsonl").write_bytes(b"".join(b'{"text": "%10d"}\n' % number for number in range(120_000)))
    (tmp_path / "rows" / "small.jsonl").write_bytes(b'{"text": "a"}\n')
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        archive.writestr("a.jsonl", '{"text": "a"}\n')
        archive.writestr("b.jsonl", '{"text": "b"}\n')
    sources = [
        Source.model_construct(name=name, path=[path], ingest=StepSpec(name="jsonl", options={"piece_mib": 1}))
        for name, path in (("rows", "rows"), ("archive", "both.zip"), ("again", "both.zip"))
    ]
    return list_inputs(sources, tmp_path, ())


def test_workers_find_the_parts_that_one_process_finds(listed: list[Listed], monkeypatch: pytest.MonkeyPatch) -> None:
    alone = scan(listed, SerialExecutor())
    monkeypatch.setattr(scanning, "WORTH_SHARING", 0)
    with closing(ProcessExecutor(2)) as workers:
        assert scan(listed, workers) == alone
    archived = ["both.zip!/a.jsonl", "both.zip!/b.jsonl"] * 2
    assert [part.file.name for part in alone] == ["large.jsonl"] * 3 + ["small.jsonl"] + archived
    assert len({part.digest for part in alone}) >= 4 and len({part.file_digest for part in alone}) == 3
    assert num_bytes(listed) == sum(path.stat().st_size for path in {item.file.path for item in listed})


def test_file_that_vanished_is_one_line_from_a_worker_too(listed: list[Listed], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "WORTH_SHARING", -1)
    monkeypatch.setattr(scanning, "num_bytes", lambda listed: 0)
    listed[1].file.path.unlink()
    with closing(ProcessExecutor(2)) as workers, pytest.raises(StorageError, match=r"small\.jsonl"):
        scan(listed, workers)


@pytest.mark.parametrize("address", ["hub:org/name", "sqlite:///forum.db", "postgresql://reader@localhost/forum"])
def test_address_of_another_ingestor_names_it(tmp_path: Path, address: str) -> None:
    source = Source.model_construct(name="a", path=[address], ingest=StepSpec(name="csv", options={}))
    with pytest.raises(DataError, match=r"is read by the ingestor '(dataset|sql)' alone"):
        list_inputs([source], tmp_path, ())

"""Input files: which are read, in which order, under which names; damaged ones are named, whenever the damage is met."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import sources
from sftdata.errors import DataError
from sftdata.sources import InputFile, bare_suffix, list_files

zstd = zstandard.ZstdCompressor(write_checksum=True).compress
COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd}
SUFFIXES = (".jsonl", ".json")


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    return folder


def names_of(*paths: Path, exclude: tuple[Path, ...] = ()) -> list[str]:
    return [file.name for file in list_files(paths, SUFFIXES, exclude)]


def input_file(path: Path, data: bytes) -> InputFile:
    path.write_bytes(data)
    return InputFile(path, path.name)


def read_lazily(file: InputFile, size: int = 1000) -> bytes:
    with file.open() as stream:
        return b"".join(iter(lambda: stream.read(size), b""))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_bytes_come_back_whole(tmp_path, suffix):
    data = os.urandom(3000) + b"palace " * 400_000
    first, second = COMPRESS[suffix](data), COMPRESS[suffix](b"second")
    file = input_file(tmp_path / f"a.jsonl{suffix}", first + second)
    assert file.read() == read_lazily(file) == data + b"second"
    assert file.read(10) == data[:10]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=3000), max_size=4), st.integers(1, 5000))
def test_zstd_frames_come_back_whole_for_any_reads(tmp_path_factory, frames, size):
    data = b"".join(map(zstd, frames)) or zstd(b"")
    assert read_lazily(input_file(tmp_path_factory.getbasetemp() / "a.zst", data), size) == b"".join(frames)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_file_that_is_cut_off_anywhere_is_an_error_of_one_line(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    whole = COMPRESS[suffix](os.urandom(200_000))
    for length in (0, 1, 5, 20, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        with pytest.raises(DataError) as caught:
            read_lazily(input_file(path, whole[:length]))
        assert str(caught.value).startswith(f"{path}: cannot be read: damaged or cut off (") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damage_met_while_lines_are_read_names_the_file(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    whole = bytearray(COMPRESS[suffix](b"".join(b"%d %s\n" % (n, os.urandom(30).hex().encode()) for n in range(30_000))))
    place = 3 * len(whole) // 4
    whole[place : place + 8] = bytes(byte ^ 0xFF for byte in whole[place : place + 8])
    seen = 0
    with pytest.raises(DataError, match="cannot be read: damaged or cut off"), input_file(path, bytes(whole)).open() as stream:
        for _ in stream:
            seen += 1
    assert 0 < seen < 30_000


def test_errors_of_the_reader_itself_pass_unchanged(tmp_path):
    file = input_file(tmp_path / "a.jsonl.gz", gzip.compress(b"{}\n"))
    for error in (OSError(28, "No space left on device"), EOFError("own"), lzma.LZMAError("own"), ValueError("own")):
        with pytest.raises(type(error)) as caught, file.open() as stream:
            assert stream.read() == b"{}\n"
            raise error
        assert caught.value is error


def test_missing_file_and_failing_disk_are_data_errors(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"^/.*none\.jsonl: cannot be read: No such file or directory$"):
        InputFile(tmp_path / "none.jsonl", "none.jsonl").read()
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        InputFile(tmp_path, "folder").read()

    class Failing(io.FileIO):
        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sources.io, "FileIO", Failing)
    with pytest.raises(DataError, match="cannot be read: Input/output error"):
        read_lazily(input_file(tmp_path / "a.jsonl", b"{}"))


@pytest.mark.parametrize("suffix", COMPRESS)
def test_decompression_bomb_is_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(sources, "EXPANSION_GRACE", 1 << 18)
    bomb = input_file(tmp_path / f"a.jsonl{suffix}", COMPRESS[suffix](bytes(4 << 20)))
    given = 0
    with pytest.raises(DataError, match="expands more than 200 times; refused as a decompression bomb"), bomb.open() as stream:
        while block := stream.read(1 << 16):
            given += len(block)
    assert given < 4 << 20
    honest = input_file(tmp_path / f"b.jsonl{suffix}", COMPRESS[suffix](os.urandom(1 << 19).hex().encode()))
    assert len(honest.read()) == 1 << 20


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.json", ".json"), ("A.JSONL.GZ", ".jsonl"), ("a.b.csv.zst", ".csv"), ("a.gz", ""), ("a", ""), ("a.json.gz.gz", ".gz")],
)
def test_bare_suffix_is_the_format_under_one_compression(name, suffix):
    assert bare_suffix(name) == suffix


def test_folder_yields_fitting_files_by_the_bytes_of_their_names(tmp_path):
    wanted = ["B.jsonl", "a.jsonl", "a/z.json", "a0.jsonl.gz", "宫.jsonl", "𠀀.jsonl"]
    write(tmp_path, *reversed(wanted), "notes.txt", ".hidden.jsonl", ".git/x.jsonl", "a/.cache/y.jsonl")
    assert names_of(tmp_path) == wanted == sorted(wanted, key=str.encode)


def test_listing_order_of_the_disk_does_not_matter(tmp_path, monkeypatch):
    write(tmp_path, *(f"{name}/{name}.jsonl" for name in "badc"))
    (tmp_path / "z.jsonl").symlink_to(tmp_path / "a" / "a.jsonl")
    (tmp_path / "e").symlink_to(tmp_path / "b")
    forward = names_of(tmp_path)
    walk = os.walk

    def backward(*arguments, **options):
        for root, folders, names in walk(*arguments, **options):
            folders.reverse()
            yield root, folders, names[::-1]

    monkeypatch.setattr(os, "walk", backward)
    assert names_of(tmp_path) == forward == ["a/a.jsonl", "b/b.jsonl", "c/c.jsonl", "d/d.jsonl"]


def test_linked_folders_are_entered_and_circles_end(tmp_path):
    write(tmp_path / "elsewhere", "x.jsonl")
    folder = write(tmp_path / "data", "a.jsonl")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    assert names_of(folder) == ["a.jsonl", "linked/x.jsonl"]


def test_excluded_folders_are_left_out_of_folders_and_globs(tmp_path):
    write(tmp_path, "a.jsonl", "shards/old/b.jsonl", "shards2/c.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "shards")
    exclude = (tmp_path / "." / "shards",)
    assert names_of(tmp_path, exclude=exclude) == ["a.jsonl", "shards2/c.jsonl"]
    assert names_of(tmp_path / "**" / "*.jsonl", exclude=exclude) == ["a.jsonl", "shards2/c.jsonl"]
    assert len(names_of(tmp_path)) == 3


def test_names_are_relative_to_what_the_recipe_names(tmp_path, monkeypatch):
    write(tmp_path, "d/a.jsonl", "d/s/b.jsonl", "e/c.jsonl", "d/n.txt")
    assert names_of(tmp_path / "d" / "s" / "b.jsonl") == ["b.jsonl"]
    assert names_of(tmp_path / "d") == ["a.jsonl", "s/b.jsonl"]
    assert names_of(tmp_path / "d", tmp_path / "e") == ["d/a.jsonl", "d/s/b.jsonl", "e/c.jsonl"]
    assert names_of(tmp_path / "d" / "a.jsonl", tmp_path / "d" / "n.txt") == ["a.jsonl", "n.txt"]
    assert names_of(tmp_path / "d" / "*.jsonl") == ["a.jsonl"]
    monkeypatch.chdir(tmp_path / "d")
    assert names_of(Path("a.jsonl"), tmp_path / "e" / "c.jsonl") == ["d/a.jsonl", "e/c.jsonl"]
    assert names_of(Path("*.jsonl")) == ["a.jsonl"] and names_of(Path("../e/*")) == ["c.jsonl"]


def test_a_file_that_is_added_renames_no_other(tmp_path):
    write(tmp_path, "part-1/x.jsonl")
    pattern = tmp_path / "part-*" / "x.jsonl"
    assert names_of(pattern) == ["part-1/x.jsonl"]
    write(tmp_path, "part-2/x.jsonl")
    assert names_of(pattern) == ["part-1/x.jsonl", "part-2/x.jsonl"]


def test_overlapping_paths_and_links_list_a_file_once(tmp_path):
    write(tmp_path, "a.jsonl", "s/b.jsonl")
    (tmp_path / "latest.jsonl").symlink_to(tmp_path / "a.jsonl")
    again = tmp_path / "s" / ".." / "a.jsonl"
    assert names_of(tmp_path, tmp_path / "s", tmp_path / "a.jsonl", again) == ["a.jsonl", "s/b.jsonl"]


def test_folder_names_may_hold_glob_characters(tmp_path):
    folder = write(tmp_path / "[2024] palace?", "a.jsonl", "b.jsonl")
    write(tmp_path / "2 palacex", "c.jsonl")
    assert names_of(folder / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names_of(folder / "a.jsonl") == ["a.jsonl"]


def test_name_that_is_not_utf8_is_escaped_and_readable(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    Path(os.fsdecode(raw)).write_text("{}\n")
    write(tmp_path, "cafz.jsonl", "caf宫.jsonl")
    files = list_files([tmp_path], SUFFIXES)
    assert [file.name for file in files] == ["cafz.jsonl", "caf宫.jsonl", "caf\\xe9.jsonl"]
    assert files[-1].name.encode("utf-8") and files[-1].read() == b"{}\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none", "no such file or folder"),
        ("none/*.jsonl", "matches no file"),
        ("empty", r"holds no file that ends in \.jsonl or \.json"),
        ("lost.jsonl", "neither a file nor a folder"),
        ("links", "lost.jsonl: is neither a file nor a folder"),
        ("pipes", "pipe.jsonl: is neither a file nor a folder"),
    ],
)
def test_path_that_gives_nothing_is_an_error(tmp_path, path, message):
    for name in ("empty", "links", "pipes"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "links" / "lost.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipes" / "pipe.jsonl")
    with pytest.raises(DataError, match=message):
        names_of(tmp_path / path)


def test_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, "a.jsonl", "closed/b.jsonl")
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="closed: cannot be read: Permission denied"):
        names_of(tmp_path)


def test_ingestor_without_suffixes_takes_every_file_of_a_folder(tmp_path):
    write(tmp_path, "a.jsonl", "b.txt", ".c")
    assert [file.name for file in list_files([tmp_path], ())] == ["a.jsonl", "b.txt"]


def write_archives(folder: Path) -> list[Path]:
    """Write the same five members as zip, tar and compressed tar, hidden ones and a folder among them."""
    members = {"./b/m.jsonl": b"bm", "a.jsonl": b"a", "z.json.gz": gzip.compress(b"z"), ".h.jsonl": b"h"}
    members |= {"b/.d/x.jsonl": b"x", "t.txt": b"t"}
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    for name, mode in (("all.tar", "w"), ("all.tar.xz", "w:xz"), ("all.tgz", "w:gz")):
        with tarfile.open(folder / name, mode) as tar:  # type: ignore[call-overload]
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return sorted(folder.iterdir())


def test_archive_yields_its_members_as_a_folder_would(tmp_path):
    archives = write_archives(tmp_path)
    assert len(archives) == 4
    for path in archives:
        files = list_files([path], SUFFIXES)
        assert [file.name for file in files] == [f"{path.name}!/{name}" for name in ("a.jsonl", "b/m.jsonl", "z.json.gz")]
        assert [file.read() for file in files] == [b"a", b"bm", b"z"]
    assert names_of(tmp_path / "*.zip") == ["all.zip!/a.jsonl", "all.zip!/b/m.jsonl", "all.zip!/z.json.gz"]


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tgz"])
def test_archive_that_is_damaged_is_named(tmp_path, name):
    write_archives(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    for bad in (b"no archive", data[: len(data) // 8], b""):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=f"{name}: (is no archive|holds no file)"):
            list_files([path], SUFFIXES)


def test_member_that_is_damaged_is_named(tmp_path):
    write_archives(tmp_path)
    path = tmp_path / "all.zip"
    [file, *_] = list_files([path], SUFFIXES)
    data = bytearray(path.read_bytes())
    place = data.index(b"a.jsonl") + len(b"a.jsonl")
    data[place] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"all\.zip!/a\.jsonl: cannot be read"):
        file.read()


def test_member_that_expands_without_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "EXPANSION_GRACE", 1 << 16)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", bytes(1 << 22))
    [file] = list_files([tmp_path / "bomb.zip"], SUFFIXES)
    with pytest.raises(DataError, match="decompression bomb"):
        file.read()


def test_two_files_that_would_share_their_ids_are_refused(tmp_path):
    write(tmp_path, "\\xff.jsonl")
    try:
        (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text("{}")
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")
    with pytest.raises(DataError, match="same name in ids"):
        list_files([tmp_path], SUFFIXES)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_all_bytes_before_the_damage_are_read_in_blocks_of_any_size(tmp_path, suffix):
    whole = COMPRESS[suffix](b"".join(b"%d line\n" % number for number in range(20_000)))
    file = input_file(tmp_path / f"a.jsonl{suffix}", whole[:-6])
    given = []
    for size in (1 << 10, 1 << 17, 1 << 20):
        num_bytes = 0
        with pytest.raises(DataError, match="damaged or cut off"), file.open() as stream:
            while data := stream.read(size):
                num_bytes += len(data)
        given.append(num_bytes)
    assert len(set(given)) == 1 and (given[0] > 100_000 or suffix == ".bz2")


def test_rows_of_csv_before_the_damage_are_read_and_a_cut_row_is_not(tmp_path):
    from sftdata.ingestors.csv import csv_

    text = "n,text\n" + "".join(f"{number},row {number} of the file\n" for number in range(5000))
    rows = []
    with pytest.raises(DataError, match="damaged or cut off"):
        for row in csv_(input_file(tmp_path / "a.csv.gz", gzip.compress(text.encode())[:-20])):
            rows.append(row.fields)
    assert len(rows) > 4900 and rows == [{"n": str(n), "text": f"row {n} of the file"} for n in range(len(rows))]

import bz2
import functools
import gzip
import io
import lzma
import pathlib
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from r2l_jax.data.fetch import archives
from r2l_jax.runtime.errors import InputError


def write_zip(path, members, **details):
    """Writes members, pairs of a name and bytes, whose entries have the attributes in `details`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.filename = name  # because ZipInfo shortens the name
            member.compress_type = zipfile.ZIP_DEFLATED
            for detail, value in details.items():
                setattr(member, detail, value)
            file.writestr(member, content)
    return path


def write_tar(path, members, **details):
    """Writes members in a tar archive, compressed as its suffix says."""
    mode = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = 0 if details else len(content)
            for detail, value in details.items():
                setattr(member, detail, value)
            file.addfile(member, io.BytesIO(content))
    return path


WRITERS = {"a.zip": write_zip, "a.tar.gz": write_tar}


@pytest.fixture
def refused(tmp_path):
    """Returns a function that checks that an archive is refused and leaves nothing."""

    def unpack(archive, message):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(InputError, match=message) as caught:
            archives.unpack(archive, tmp_path / "in" / "target")
        assert str(archive) in str(caught.value)
        assert "\n" not in str(caught.value)
        (tmp_path / "in").rmdir()
        assert sorted(tmp_path.rglob("*")) == before

    return unpack


@pytest.mark.parametrize("name", [*WRITERS, "a.tar.bz2", "a.tar.xz"])
def test_unpacks_files_in_folders(tmp_path, name):
    long_name = "/".join(["folder" * 8] * 9) + "/ü"
    members = [("data/one.tiff", b"1"), ("data/sub folder/zwei-ü.tiff", b"22"), (long_name, b"3")]
    target = tmp_path / "target"
    target.mkdir()
    (target / "left by an earlier call").touch()
    archive = WRITERS.get(name, write_tar)(tmp_path / name, [*members, ("__MACOSX/data/one.tiff", b"junk")])
    archives.unpack(archive, target)
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == dict(members)


def test_a_tar_file_may_name_its_own_folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").touch()
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "data", ".")
    archives.unpack(tmp_path / "a.tar", tmp_path / "target")
    assert (tmp_path / "target" / "x").exists()


@pytest.mark.parametrize("archive", WRITERS)
@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/x", "..\\x", "\\x", "C:\\x", "c:x", "//host/share/x", "a\nb", "a\x1b[2Jb", ".", ""]
)
def test_refuses_names_that_leave_the_folder(tmp_path, refused, archive, name):
    refused(WRITERS[archive](tmp_path / archive, [("good", b"1"), (name, b"2")]), "does not stay in its folder")


@pytest.mark.parametrize(
    ("archive", "details"),
    [
        *(
            ("a.tar.gz", {"type": kind, "linkname": linkname})
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
            for linkname in ("/etc/passwd", "inside")
        ),
        *(("a.zip", {"external_attr": (kind | 0o777) << 16}) for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO)),
    ],
)
def test_refuses_links_and_devices(tmp_path, refused, archive, details):
    refused(WRITERS[archive](tmp_path / archive, [("x", b"/etc/passwd")], **details), "'x' is a link or a device")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"ALWAYS_ALLOWED": 0}, "unpacks to more than 100 times its size"),
        ({"MAX_OF_FREE_DISK": 1e-12}, r"unpacks to more than 0% of the \d+ bytes free"),
        ({"MAX_FILES": 1}, "more than 1 files"),
    ],
)
def test_refuses_bombs(tmp_path, refused, monkeypatch, name, limits, message):
    for limit, value in limits.items():
        monkeypatch.setattr(archives, limit, value)
    refused(WRITERS[name](tmp_path / name, [("x", bytes(2**22)), ("y", b"")]), message)


def test_refuses_files_that_overlap(tmp_path, refused):
    """Sixteen entries share one compressed file."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x0", bytes(2**20))
        for number in range(1, 16):
            copy = zipfile.ZipInfo(f"x{number}")
            first = file.infolist()[0]
            for detail in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(copy, detail, getattr(first, detail))
            file.filelist.append(copy)
    refused(tmp_path / "a.zip", "its files overlap")


def long_name(kind, size):
    """Returns a tar archive with a header of a name of so many bytes, which are all there."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, size
    return member.tobuf() + bytes(-(-size // 512) * 512) + tarfile.TarInfo("x").tobuf() + bytes(1024)


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X"]
)
@pytest.mark.parametrize("packed", [bytes, gzip.compress, functools.partial(lzma.compress, preset=0), bz2.compress])
def test_refuses_names_that_fill_the_memory(tmp_path, refused, kind, packed):
    (tmp_path / "a.tar").write_bytes(packed(long_name(kind, 2**23)))
    tracemalloc.start()
    refused(tmp_path / "a.tar", "the headers of one of its members have more than 1048576 bytes")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("member", ["a/" * 2000, "a/" * 2000 + "x", "a/" * 101])
def test_refuses_folders_within_too_many_folders(tmp_path, refused, name, member):
    refused(WRITERS[name](tmp_path / name, [(member, b"")]), r"the name 'a/a/.* has \d+ parts, more than 100")


def test_refuses_sparse_files(tmp_path, refused):
    member = tarfile.TarInfo("x")
    member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(member)
    refused(tmp_path / "a.tar", "'x' is a sparse file")


def test_refuses_what_lzma_in_zip_would_take_of_memory(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("x", b"1")
    refused(tmp_path / "a.zip", "'x' is compressed by method 14, expected Deflate")


@pytest.mark.parametrize("zip64", [False, True])
def test_refuses_a_directory_that_fills_the_memory(tmp_path, refused, monkeypatch, zip64):
    archive = write_zip(tmp_path / "a.zip", [("x", b"1")])
    content = archive.read_bytes()
    start = content.index(b"PK\5\6")
    length = int.from_bytes(content[start + 12 : start + 16], "little")
    if zip64:
        record = b"PK\6\6" + bytes(36) + length.to_bytes(8, "little") + bytes(8) + b"PK\6\7" + bytes(16)
        end = content[start : start + 12] + b"\xff" * 4 + content[start + 16 :]
        archive.write_bytes(content[:start] + record + end)
    monkeypatch.setattr(archives, "_MOST_DIRECTORY", length - 1)
    refused(archive, f"its directory has {length} bytes, more than {length - 1}")


def test_refuses_a_damaged_header_in_the_middle_of_a_tar_archive(tmp_path, refused):
    """tarfile takes it for the end of the archive."""
    archive = write_tar(tmp_path / "a.tar", [("x", b"1"), ("y", b"2")])
    content = bytearray(archive.read_bytes())
    content[1024 + 150] ^= 1
    archive.write_bytes(content)
    refused(archive, "the header of a member is damaged")


@pytest.mark.parametrize("name", [*WRITERS, "a.tar.xz"])
def test_refuses_damaged_archives(tmp_path, refused, name):
    content = WRITERS.get(name, write_tar)(tmp_path / name, [("x", bytes(range(256)) * 64)]).read_bytes()
    for damaged in (b"", b"no archive", content[: len(content) // 2], content[:60] + b"\xff" * 20 + content[80:]):
        (tmp_path / name).write_bytes(damaged)
        refused(tmp_path / name, "damaged or not an archive|unpacking")


def test_refuses_encrypted_files_and_duplicate_names(tmp_path, refused):
    archive = write_zip(tmp_path / "a.zip", [("x", b"1")])
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, "'x' is encrypted")
    refused(write_tar(tmp_path / "a.tar.gz", [("x", b"1"), ("x", b"2")]), "x: File exists")
    refused(write_tar(tmp_path / "a.tar.gz", [("x", b"1"), ("x/y", b"2")]), "x: (File exists|Not a directory)")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="Linux has this device, full as a disk may be")
def test_a_full_disk_is_one_line(tmp_path, refused, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", [("x", b"1")])
    original = type(tmp_path).open

    def full(path, mode="r", *arguments):
        return open("/dev/full", "wb") if mode == "xb" else original(path, mode, *arguments)

    monkeypatch.setattr(type(tmp_path), "open", full)
    refused(archive, "unpacking: No space left on device")


def test_merge_keeps_existing_files_and_replaces_those_of_the_same_name(tmp_path):
    for root, files in {"target": ("a/x", "a/keep"), "source": ("a/x", "b/x", "b/y")}.items():
        for file in files:
            (tmp_path / root / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / file).write_text(f"of the {root}")
    archives.merge(tmp_path / "source", tmp_path / "target")
    found = {p.relative_to(tmp_path / "target").as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {"a/keep": "of the target", **dict.fromkeys(("a/x", "b/x", "b/y"), "of the source")}

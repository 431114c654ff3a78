import gzip
import io
import stat
import tarfile
import tracemalloc
import zipfile

import pytest

from r2l_jax.data.fetch import archives
from r2l_jax.errors import InputError


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


LINKS = {"type": tarfile.SYMTYPE, "linkname": "/x"}, {"type": tarfile.LNKTYPE, "linkname": "/x"}
DEVICES = [{"external_attr": (kind | 0o777) << 16} for kind in (stat.S_IFLNK, stat.S_IFCHR)]
SPARSE = {"pax_headers": {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(2**40)}}


@pytest.mark.parametrize(
    ("archive", "names", "details", "message"),
    [
        *(("a.zip", ["good", name], {}, "leads out of its folder") for name in ("a/../../x", "/x", "..\\x")),
        *(("a.tar.gz", ["good", name], {}, "leads out of its folder") for name in ("a/../../x", "/x", "..\\x")),
        *(("a.tar.gz", ["x"], details, "'x' is a link or a device") for details in LINKS),
        *(("a.zip", ["x"], details, "'x' is a link or a device") for details in DEVICES),
        ("a.tar.gz", ["x"], SPARSE, "'x' is a sparse file"),
        # LZMA would take all the memory that the file declares.
        ("a.zip", ["x"], {"compress_type": zipfile.ZIP_LZMA}, "'x' is compressed by method 14, expected Deflate"),
        ("a.tar.gz", ["x", "x"], {}, "x: File exists"),
        ("a.tar.gz", ["x", "x/y"], {}, "x: (File exists|Not a directory)"),
    ],
)
def test_refuses(tmp_path, refused, archive, names, details, message):
    refused(WRITERS[archive](tmp_path / archive, [(name, b"1") for name in names], **details), message)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("limits", "message"),
    [({"ALWAYS_ALLOWED": 0}, "unpacks to more than 100 times its size"), ({"MAX_FILES": 1}, "more than 1 files")],
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
    # Newer versions of Python notice that entries overlap, older ones that their names differ.
    refused(
        tmp_path / "a.zip", r"not a valid ZIP \((Overlapped entries: 'x0'|File name in directory 'x1' and header b'x0')"
    )


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_refuses_names_that_fill_the_memory(tmp_path, refused, kind, packed):
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, 2**23
    content = member.tobuf() + bytes(2**23) + tarfile.TarInfo("x").tobuf() + bytes(1024)
    (tmp_path / "a.tar").write_bytes(packed(content))
    tracemalloc.start()
    refused(tmp_path / "a.tar", "holds a member whose header exceeds 1048576 bytes")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_refuses_what_follows_a_damaged_header(tmp_path, refused, packed):
    content = write_tar(tmp_path / "a.tar", [("x", b"1"), ("y", b"2"), ("z", b"3")]).read_bytes()
    flipped = content[:1024] + bytes([content[1024] ^ 1]) + content[1025:]
    for damaged in (flipped, content[:1024], content[:1100]):
        (tmp_path / "a.tar").write_bytes(packed(damaged))
        refused(tmp_path / "a.tar", "holds a member whose header is damaged")

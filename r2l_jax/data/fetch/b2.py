"""Downloads folders of a Backblaze B2 bucket file by file."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping

import requests
from b2sdk.v2 import B2Api, B2HttpApiConfig, Bucket, FileVersion, InMemoryAccountInfo
from b2sdk.v2.exception import (
    B2Error,
    InvalidAuthToken,
    NonExistentBucket,
    NotAllowedByAppKeyError,
    TransientErrorMixin,
    Unauthorized,
)
from tqdm import tqdm

from r2l_jax.data.fetch.partial import Dropped, Remote, Sink, check_free_disk, fetch
from r2l_jax.runtime.errors import InputError, one_line
from r2l_jax.runtime.files import inside

# Most files are small, so waiting for the server takes most of the time. B2 allows many more requests at once.
THREADS = 16

# The empty file with which B2's own programs mark a folder.
_FOLDER_MARK = ".bzEmpty"


@dataclasses.dataclass(frozen=True)
class Account:
    """The credentials for a bucket.

    Attributes:
        bucket: the bucket's name.
        key_id: the application key's identifier.
        key: the application key, with the capabilities listFiles and readFiles.
        api_config: how b2sdk reaches B2.
    """

    bucket: str
    key_id: str
    key: str = dataclasses.field(repr=False)
    api_config: B2HttpApiConfig = dataclasses.field(default_factory=B2HttpApiConfig, repr=False)


def find_account(bucket: str, key_id: str | None = None, key: str | None = None) -> Account:
    """Returns an account from the arguments and, for missing ones, from the environment variables of B2's own tools.

    Args:
        bucket: the bucket's name.
        key_id: the application key's identifier; None reads $B2_APPLICATION_KEY_ID.
        key: the application key; None reads $B2_APPLICATION_KEY.

    Raises:
        InputError: the identifier or the key is neither given nor in the environment.
    """
    key_id = key_id or os.environ.get("B2_APPLICATION_KEY_ID")
    key = key or os.environ.get("B2_APPLICATION_KEY")
    if not key_id or not key:
        raise InputError(
            "--source=b2 needs an application key: "
            "set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or give --b2_key_id and --b2_key"
        )
    return Account(bucket, key_id, key)


def download_folders(
    account: Account, folders: Mapping[str, pathlib.Path], done: Mapping[pathlib.Path, str]
) -> dict[pathlib.Path, str]:
    """Downloads every file in some folders of a bucket, several at once.

    Local files with the right size and SHA-1 are kept. Large files have a SHA-1 only if their uploader stated it
    (`large_file_sha1`); without one, only the size is compared.

    Args:
        account: the credentials for the bucket.
        folders: the folders in the bucket, and the local folder for the files of each.
        done: files to leave out if they still have this `Remote.fingerprint`, by their local paths.

    Returns:
        The fingerprint of every file in these folders, by its local path.

    Raises:
        InputError: B2 refuses the key, has no such bucket or folder, cannot be reached, or sends something other than
            it announced; a file's name leads out of its folder; or the disk is full.
    """
    bucket = _open(account)
    files = {}
    for folder, place in folders.items():
        with _as_input_error(account, f"folder {folder}"):
            versions = [version for version, _ in bucket.ls(f"{folder}/", recursive=True)]
        versions = [version for version in versions if version.file_name.rsplit("/", 1)[-1] != _FOLDER_MARK]
        if not versions:
            raise InputError(f"B2: bucket {account.bucket} has no files in the folder {folder}")
        for version in versions:
            target = inside(place, version.file_name.removeprefix(f"{folder}/"))
            if target in files:
                raise InputError(f"B2: {files[target][0].name} and {version.file_name} would both become {target}")
            sha1 = version.get_content_sha1()
            files[target] = Remote(version.file_name, version.size, f"sha1:{sha1}" if sha1 else None), version
    fingerprints = {target: remote.fingerprint for target, (remote, _) in files.items()}
    wanted = {target: file for target, file in files.items() if done.get(target) != fingerprints[target]}
    for place in folders.values():
        place.mkdir(parents=True, exist_ok=True)
    _download(account, wanted, next(iter(folders.values())))
    return fingerprints


def _open(account: Account) -> Bucket:
    api = B2Api(
        InMemoryAccountInfo(),  # pyright: ignore[reportArgumentType]  # b2sdk declares the class of another version
        api_config=account.api_config,
        max_download_workers=THREADS,
        # b2sdk cannot check files that are continued, and `fetch` checks all files.
        check_download_hash=False,
    )
    with _as_input_error(account, "signing in"):
        api.authorize_account("production", account.key_id, account.key)
        return api.get_bucket_by_name(account.bucket)  # pyright: ignore[reportReturnType]  # of another version as well


def _download(
    account: Account, wanted: Mapping[pathlib.Path, tuple[Remote, FileVersion]], folder: pathlib.Path
) -> None:
    stop = threading.Event()
    with (
        tqdm(desc="B2", unit="B", unit_scale=True, disable=None) as bar,
        concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
    ):

        def download_file(target: pathlib.Path, remote: Remote, version: FileVersion) -> None:
            def read(sink: Sink, start: int) -> None:
                with _as_input_error(account, remote.name):
                    try:
                        range_ = (start, remote.size - 1) if start else None
                        download = version.download(range_=range_)
                        download.save(sink, allow_seeking=False)  # pyright: ignore[reportArgumentType]  # needs no more
                    except (B2Error, requests.RequestException) as error:
                        if isinstance(error, B2Error) and not isinstance(error, TransientErrorMixin):
                            raise
                        raise Dropped(one_line(error)) from None

            fetch(remote, target, read, bar, stop)

        try:
            there = pool.map(_is_there, wanted, (remote for remote, _ in wanted.values()))
            missing = {target: wanted[target] for target, is_there in zip(wanted, there, strict=True) if not is_there}
            check_free_disk(folder, {target: remote for target, (remote, _) in missing.items()})
            bar.total = sum(remote.size for remote, _ in missing.values())
            futures = [pool.submit(download_file, target, *file) for target, file in missing.items()]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            # Running downloads stop at their next bytes, and no others start.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _is_there(target: pathlib.Path, remote: Remote) -> bool:
    try:
        return target.is_file() and remote.mismatch(target) is None
    except OSError as error:
        raise InputError(f"{target}: {error.strerror or error}") from None


@contextlib.contextmanager
def _as_input_error(account: Account, what: str) -> Iterator[None]:
    """Turns an error of b2sdk into an InputError that names the step that failed."""
    try:
        yield
    except (InvalidAuthToken, Unauthorized, NotAllowedByAppKeyError) as error:
        reason = f"the key {account.key_id} is refused for bucket {account.bucket}: {error}"
    except NonExistentBucket:
        reason = f"no bucket {account.bucket} for the key {account.key_id}"
    except B2Error as error:
        reason = str(error)
    else:
        return
    raise InputError(f"B2: {what}: {one_line(reason)}")

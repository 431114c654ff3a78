"""Downloads folders of a Backblaze B2 bucket file by file, with b2sdk's synchronizer."""

import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from b2sdk.v2 import (
    B2Api,
    B2Folder,
    B2HttpApiConfig,
    CompareVersionMode,
    InMemoryAccountInfo,
    LocalFolder,
    ScanPoliciesManager,
    Synchronizer,
    SyncReport,
)
from b2sdk.v2.exception import B2Error

from r2l_jax.errors import InputError, one_line

# Most files are small, so most of the time is spent waiting for the server. B2 allows many more requests at once.
THREADS = 16

# The empty file that marks a folder in B2.
_FOLDER_MARK = ".bzEmpty"


@dataclasses.dataclass(frozen=True)
class Account:
    """The credentials for a bucket.

    The application key needs the capabilities listFiles and readFiles; `api_config` says how b2sdk reaches B2.
    """

    bucket: str
    key_id: str
    key: str = dataclasses.field(repr=False)
    api_config: B2HttpApiConfig = dataclasses.field(default_factory=B2HttpApiConfig, repr=False)


def find_account(bucket: str, key_id: str | None = None, key: str | None = None) -> Account:
    """Returns an account; a missing identifier or key comes from the environment variables of B2's tools."""
    key_id = key_id or os.environ.get("B2_APPLICATION_KEY_ID")
    key = key or os.environ.get("B2_APPLICATION_KEY")
    if not key_id or not key:
        raise InputError(
            "`source=b2` needs an application key: "
            "set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or pass `b2_key_id` and `b2_key`"
        )
    return Account(bucket, key_id, key)


class _Report(SyncReport):
    """Shows the progress on a terminal, without a line for each file, and keeps the errors."""

    def __post_init__(self):
        super().__post_init__()
        self.errors = list[str]()

    def print_completion(self, message: str) -> None:
        """Prints nothing."""

    def error(self, message: str) -> None:
        """Keeps an error."""
        self.errors.append(message)


def download_folders(account: Account, folders: Mapping[str, pathlib.Path], left_out: Collection[str] = ()) -> None:
    """Downloads every file in some folders of a bucket, several at once, and verifies each by its SHA-1.

    Existing files of the same size are kept, and names in `left_out` are not downloaded. `folders` maps bucket folders
    to local ones.
    """
    api = B2Api(InMemoryAccountInfo(), api_config=account.api_config)  # pyright: ignore[reportArgumentType]  # stale
    skipped = [rf"(.*/)?{re.escape(name)}$" for name in (_FOLDER_MARK, *left_out)]
    synchronizer = Synchronizer(
        THREADS,
        policies_manager=ScanPoliciesManager(exclude_file_regexes=skipped),
        compare_version_mode=CompareVersionMode.SIZE,
    )
    reason = ""
    terminal: Any = sys.stderr
    with _Report(terminal, no_progress=not terminal.isatty()) as report:
        try:
            api.authorize_account("production", account.key_id, account.key)
            for folder, place in folders.items():
                place.mkdir(parents=True, exist_ok=True)
                source = B2Folder(account.bucket, folder, api)
                synchronizer.sync_folders(source, LocalFolder(str(place)), int(1000 * time.time()), report)
        except B2Error as error:
            reason = report.errors[0] if report.errors else f"bucket {account.bucket}, key {account.key_id}: {error}"
    if reason:
        raise InputError(f"B2: {one_line(reason)}")

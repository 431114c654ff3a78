"""Downloads a published data set, Raw-Microscopy or Raw-Drone.

python scripts/download.py --dataset=Microscopy --data_dir=data
B2_APPLICATION_KEY_ID=... B2_APPLICATION_KEY=... python scripts/download.py --dataset=Drone --source=b2 --data_dir=data

Repeat the command to resume an interrupted download; complete files are not downloaded again.
"""

import dataclasses

from r2l_jax.cli.flags import Settings, setting
from r2l_jax.names import SOURCES, ZENODO_URL


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownloadConfig(Settings):
    """Download."""

    dataset: str = setting("the data set", choices=("Microscopy", "Drone"))
    source: str = setting("zenodo needs no account; b2 needs an application key", "zenodo", choices=SOURCES)
    data_dir: str | None = setting(
        "parent folder of the data set's own folder, microscopy or drone; default: your cache folder, where the other "
        "programs look for it",
        None,
    )
    zenodo_url: str = setting("Zenodo's REST API, or a mirror of it", ZENODO_URL, needs="source=zenodo")
    b2_bucket: str = setting("for b2: the bucket", "perturbed-minds", needs="source=b2")
    b2_key_id: str | None = setting(
        "for b2: the application key's identifier; default: $B2_APPLICATION_KEY_ID", None, needs="source=b2"
    )
    b2_key: str | None = setting(
        "for b2: the application key; default: $B2_APPLICATION_KEY, which other users cannot see, unlike this flag",
        None,
        needs="source=b2",
    )


def main(config: DownloadConfig) -> None:
    """Downloads the data set that the flags name."""
    from r2l_jax.data.fetch import b2, download
    from r2l_jax.results.files import cache_dir

    account = b2.find_account(config.b2_bucket, config.b2_key_id, config.b2_key) if config.source == "b2" else None
    data_dir = config.data_dir or cache_dir()
    print(download.download(config.dataset, data_dir, config.source, zenodo_url=config.zenodo_url, b2_account=account))

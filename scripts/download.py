"""Downloads a published data set, Raw-Microscopy or Raw-Drone.

python scripts/download.py --dataset=Microscopy --data_dir=data
B2_APPLICATION_KEY_ID=... B2_APPLICATION_KEY=... python scripts/download.py --dataset=Drone --source=b2 --data_dir=data

The same command again goes on where one was interrupted, and has nothing to do if all is there.
"""

from absl import flags

from r2l_jax.data.fetch import b2, download
from r2l_jax.runtime import startup

FLAGS = flags.FLAGS
flags.DEFINE_enum("dataset", None, list(download.LAYOUTS), "Which data set.", required=True)
flags.DEFINE_enum("source", "zenodo", download.SOURCES, "zenodo needs no account; b2 an application key.")
flags.DEFINE_string(
    "data_dir",
    None,
    "Folder for the data set, which becomes its sub-folder microscopy or drone; default: the cache folder of yours in "
    "which the other programs look for it.",
)
flags.DEFINE_string("zenodo_url", download.ZENODO_URL, "Zenodo's REST API, or a mirror of it.")
flags.DEFINE_string("b2_bucket", b2.BUCKET, "For b2: the bucket.")
flags.DEFINE_string("b2_key_id", None, "For b2: the application key's identifier; default: $B2_APPLICATION_KEY_ID.")
flags.DEFINE_string(
    "b2_key", None, "For b2: the application key; default: $B2_APPLICATION_KEY, which other users cannot see."
)


def main() -> None:
    """Downloads what the flags name."""
    account = b2.find_account(FLAGS.b2_bucket, FLAGS.b2_key_id, FLAGS.b2_key) if FLAGS.source == "b2" else None
    data_dir = FLAGS.data_dir or startup.cache_dir()
    print(download.download(FLAGS.dataset, data_dir, FLAGS.source, zenodo_url=FLAGS.zenodo_url, b2_account=account))


if __name__ == "__main__":
    startup.run(main)

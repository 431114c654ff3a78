"""Turns a folder of JPEG and PNG into a raw data set: the mosaics that a camera would have taken, with its noise.

python scripts/unprocess.py --input=photos --output=raw_photos --camera=drone --exposure=0.9
python scripts/train.py --dataset=Folder --data_dir=raw_photos --camera=raw_photos/camera.json

The input has one sub-folder a class, or images/ and masks/, and the output has the same with 16-bit TIFF in place of
the pictures, and the camera. The exit status is 1 if any picture could not be read.
"""

from absl import flags

from r2l_jax.apps.unprocess import unprocess_folder
from r2l_jax.data.files.cameras import find_camera
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "Folder of pictures: one sub-folder a class, or images/ and masks/.", required=True)
flags.DEFINE_string("output", None, "Folder for the mosaics, outside of the input.", required=True)
flags.DEFINE_string("camera", None, "drone, microscopy or a JSON file with a camera's figures.", required=True)
flags.DEFINE_float(
    "exposure", 1.0, "Factor on the light. Below 1 there is headroom for what would exceed the white level."
)
flags.DEFINE_float("full_well", 15000.0, "Electrons at which a site saturates: fewer are more noise.")
flags.DEFINE_float("read_noise", 4.0, "Standard deviation of the read-out, in electrons.")
flags.DEFINE_integer("bits", 12, "Of the converter, 1 to 16.")
flags.DEFINE_integer("seed", 0, "Of the noise.")


def main() -> int:
    """Turns what the flags name, and returns the exit status."""
    camera = find_camera(FLAGS.camera)
    if camera is None:
        raise InputError("--camera=auto: pictures hold no camera's figures; name a camera or a JSON file")
    summary = unprocess_folder(
        FLAGS.input,
        FLAGS.output,
        camera,
        exposure=FLAGS.exposure,
        full_well=FLAGS.full_well,
        read_noise=FLAGS.read_noise,
        bits=FLAGS.bits,
        seed=FLAGS.seed,
    )
    print(
        f"{summary.written} written, {summary.failed} failed; of the sites, {summary.too_bright:.2%} saturate and "
        f"{summary.too_dark:.2%} are black for a colour outside the camera's gamut"
    )
    return 1 if summary.failed else 0


if __name__ == "__main__":
    startup.run(main)

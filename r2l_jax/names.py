"""The values that flags take, kept apart from the packages that implement them, which take a second to import."""

from typing import Literal

# The algorithms of a static pipeline, `isp.ALGORITHMS`, without the demosaicing that --half_size chooses.
DEMOSAICING = ("none", "bilinear", "malvar2004", "menon2007", "normalized")
SHARPENING = ("none", "sharpening_filter", "unsharp_masking", "unsharp_masking_vertical")
DENOISING = (
    "none",
    "gaussian_denoising",
    "median_denoising",
    "fft_denoising",
    "tv_chambolle",
    "tv_bregman",
    "bilateral",
    "chroma_denoising",
    "nlm_denoising",
)

AUTO = ("exposure", "white_balance")

PUBLISHED_PIPELINES = tuple(
    f"{demosaic}.{sharpen}.{denoise}"
    for demosaic in ("bilinear", "malvar2004", "menon2007")
    for sharpen in ("sharpening_filter", "unsharp_masking")
    for denoise in ("median_denoising", "gaussian_denoising")
)

# The light intensities of the published raw images, as fractions of full light.
INTENSITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)

# The kinds of drift: in the processing; in the acquisition, as measured or as computed by the sensor model; in the
# sensor, the lens and the lamp; by another camera's calibration; and corruptions of finished images, which often stand
# in for the others.
DRIFTS = ("pipelines", "intensities", "exposures", "sensor", "cameras", "corruptions")

# The kinds of sensor drift, each a function of `isp.sensor_drift`, with its amounts at five severities, in the units
# there. There is no standard scale. For a camera of 15,000 electrons and a read noise of 4, severity 1 is hardly
# visible, severity 5 is a broken set-up, and the severities between them grow by about equal factors. For lenses, the
# nearest list is OpticsBench (P. Müller et al., "Classification robustness to common optical aberrations", ICCV
# workshops, 2023).
SENSOR = {
    "underexposure": (0.5, 1.0, 2.0, 3.0, 4.5),
    "overexposure": (0.25, 0.5, 1.0, 1.5, 2.5),
    "lamp_color": (10.0, 30.0, 60.0, 110.0, 180.0),
    "color_balance": (0.1, 0.2, 0.4, 0.7, 1.0),
    "flicker": (2.0, 5.0, 10.0, 25.0, 50.0),
    "vignetting": (0.25, 0.5, 1.0, 2.0, 3.0),
    "defocus": (0.5, 1.0, 1.5, 2.5, 4.0),
    "motion": (2.0, 4.0, 6.0, 10.0, 16.0),
    "chromatic_aberration": (0.25, 0.5, 1.0, 2.0, 4.0),
    "read_noise": (4.0, 12.0, 30.0, 75.0, 200.0),
    "row_noise": (30.0, 75.0, 150.0, 300.0, 600.0),
    "column_noise": (30.0, 75.0, 150.0, 300.0, 600.0),
    "photon_noise": (2.0, 5.0, 15.0, 50.0, 150.0),
    "hot_sites": (100.0, 500.0, 2000.0, 10000.0, 30000.0),
    "dead_sites": (100.0, 500.0, 2000.0, 10000.0, 30000.0),
    "bits": (7.0, 6.0, 5.0, 4.0, 3.0),
    "black_level": (16.0, 40.0, 80.0, 160.0, 320.0),
    "pattern_shift": (2.0, 10.0, 30.0, 60.0, 100.0),
}

# Help for the flags of camera states.
SENSOR_HELP = (
    f"sensor, lens and lamp drift: {', '.join(SENSOR)}, each at --severities; or several drifts at once, in physical "
    "units, such as exposure=-1,defocus=0.5, or a JSON file of them; may be repeated"
)
CAMERAS_HELP = "other cameras by their JSON files, as far as levels, gains and noise tell; separated by commas"

# The corruptions of the study, in the order of its tables; the first one changes nothing.
CORRUPTIONS_OF_THE_STUDY = (
    "identity",
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "gaussian_blur",
    "zoom_blur",
    "contrast",
    "brightness",
    "saturate",
    "elastic_transform",
)
CORRUPTIONS = (
    *CORRUPTIONS_OF_THE_STUDY,
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "fog",
    "frost",
    "snow",
    "spatter",
    "jpeg_compression",
    "pixelate",
)
SEVERITIES = (1, 2, 3, 4, 5)

# Whether an interval holds for another run of the same training recipe, or for the models at hand.
About = Literal["recipe", "model"]

# The corruptions that a model is tested against by default.
CHANGES = CORRUPTIONS_OF_THE_STUDY[1:]

# The metadata of a shot, which are the fields of `data.files.shot.Shot`.
SHOT_FIELDS = ("maker", "model", "lens", "iso_speed", "exposure_time", "f_number", "date", "iso", "camera")
BY_SHOT = (
    f"also group scores by shot metadata: for a Folder, {', '.join(SHOT_FIELDS[:-2])}; for a run on several "
    "intensities, iso; for a run on several cameras, camera"
)

EXPORT_PARTS = ("whole", "isp", "head")
EXPORT_FORMATS = ("stablehlo", "onnx", "safetensors", "camera")

SOURCES = ("zenodo", "b2")
ZENODO_URL = "https://zenodo.org/api"

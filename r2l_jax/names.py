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
# sensor, the lens and the lamp; and corruptions of finished images, which often stand in for the others.
DRIFTS = ("pipelines", "intensities", "exposures", "sensor", "corruptions")

# The kinds of sensor drift, the functions of `isp.sensor_drift`.
SENSOR = (
    "underexposure",
    "overexposure",
    "lamp_color",
    "color_balance",
    "flicker",
    "vignetting",
    "defocus",
    "motion",
    "chromatic_aberration",
    "read_noise",
    "row_noise",
    "column_noise",
    "photon_noise",
    "hot_sites",
    "dead_sites",
    "bits",
    "black_level",
    "pattern_shift",
)

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

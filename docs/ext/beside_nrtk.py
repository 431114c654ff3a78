"""Measures NRTK's sensor model and ours on pictures: whether a change of exposure survives, and the speed.

`python docs/ext/beside_nrtk.py pictures...` prints the numbers of docs/nrtk.md; it needs the extra `bench`.
"""

import sys
import time

import numpy as np
from nrtk.impls.perturb_image.optical import PybsmPerturber
from nrtk.interop import MAITEImageClassificationAugmentation
from PIL import Image
from pybsm.simulation.ref_image import RefImage

from r2l_jax.maite import Augmentation

# In the picture of NRTK's example, taken from 75 m, a person of 1.7 m is 58 pixels high.
GSD, ALTITUDE, ROUNDS = 1.7 / 58, 75, 15
SENSOR = "D f p_x opt_trans_wavelengths optics_transmission eta int_time dark_current read_noise max_n bit_depth"
SENSOR = f"{SENSOR} max_well_fill s_x s_y qe_wavelengths qe".split()
OURS = ("exposure=-1", "defocus=1", "exposure=-1,defocus=1,read_noise=3,vignetting=1")


def nrtk(picture, light=1.0, mode="radiometric"):
    """The perturber of NRTK's docs/examples/maite/nrtk_sensor_transformation_demo.ipynb."""
    sensor, scenario = RefImage(img=np.moveaxis(picture, 0, -1), gsd=GSD).estimate_capture_parameters(ALTITUDE)
    values = {name: getattr(sensor, name) for name in SENSOR} | {"w_x": sensor.p_x, "w_y": sensor.p_x}
    values |= {name: getattr(scenario, name) for name in ("ihaze", "altitude", "ground_range", "aircraft_speed")}
    values |= {"int_time": light * sensor.int_time, "pixel_conversion_mode": mode, "seed": 0}
    return MAITEImageClassificationAugmentation(augment=PybsmPerturber(**values), augment_id="pyBSM")


def taken(augmentation, pictures):
    """The pictures after a drift, one in each batch."""
    batches = [([each], [np.eye(2)[0]], [{"id": number, "img_gsd": GSD}]) for number, each in enumerate(pictures)]
    return [augmentation(batch)[0][0] for batch in batches]


if __name__ == "__main__":
    pictures = [np.moveaxis(np.asarray(Image.open(name).convert("RGB")), -1, 0) for name in sys.argv[1:]]
    half = [np.uint8(255 * ((each / 255) ** 2.2 / 2) ** (1 / 2.2) + 0.5) for each in pictures]
    print(f"means: unchanged {np.mean(pictures):.1f}, half the light {np.mean(half):.1f}, the latter in the sensor")
    methods = {mode: lambda light, mode=mode: nrtk(pictures[0], light, mode) for mode in ("radiometric", "minmax")}
    methods["ours"] = lambda light: Augmentation("drone", sensor={"exposure": np.log2(light)})
    for name, make in methods.items():
        found = taken(make(1), pictures), taken(make(1), half), taken(make(0.5), pictures)
        print(f"{name}: {', '.join(f'{np.mean(each):.1f}' for each in found)}")
    seconds = {name: [] for name in ("NRTK", *OURS)}
    made = [nrtk(pictures[0]), *(Augmentation("drone", sensor=name) for name in OURS)]
    for _ in range(ROUNDS + 1):
        for name, augmentation in zip(seconds, made, strict=True):
            start = time.perf_counter()
            taken(augmentation, pictures)
            seconds[name].append((time.perf_counter() - start) / len(pictures))
    print(f"images per second, the median of {ROUNDS} rounds that take turns, the least and the greatest")
    for name, (_, *others) in seconds.items():
        print(f"{name}: {', '.join(f'{1 / np.quantile(others, at):.1f}' for at in (0.5, 1, 0))}")

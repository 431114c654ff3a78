"""The flags that name drifts, declared once for all programs that test, write or adapt to drifted images."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from r2l_jax.cli.flags import Settings, setting
from r2l_jax.model.settings import PIPELINE_NAMES
from r2l_jax.names import CAMERAS_HELP, CORRUPTIONS, INTENSITIES, SENSOR_HELP, SEVERITIES

if TYPE_CHECKING:
    from r2l_jax.drift.cases import Case
else:
    Case = Any  # importing it would delay a program's help

Drifts = TypeVar("Drifts", bound="DriftSettings")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftSettings(Settings):
    """Drifts."""

    pipelines: tuple[str, ...] = setting(f"pipelines, at the camera's calibration: {PIPELINE_NAMES}", ())
    intensities: tuple[float, ...] = setting(
        f"measured intensities, some of {', '.join(map('{:g}'.format, INTENSITIES))}; a Folder has one", ()
    )
    exposures: tuple[float, ...] = setting(
        "simulated exposures, as factors on the light of any raw images (of measured ones, at full intensity)", ()
    )
    sensor: tuple[str, ...] = setting(SENSOR_HELP, (), kind="states")
    cameras: tuple[str, ...] = setting(CAMERAS_HELP, ())
    severities: tuple[int, ...] = setting(
        f"severities of sensor drifts and corruptions: {', '.join(map(str, SEVERITIES))}", (3,), needs="sensor"
    )

    @property
    def known_cases(self) -> dict[str, list[Case]]:
        """The cases of each kind of drift, in the order of `names.DRIFTS`."""
        from r2l_jax.drift import cases

        return {
            "pipelines": cases.pipelines(self.pipelines),
            "intensities": cases.intensities(self.intensities),
            "exposures": cases.exposures(self.exposures),
            "sensor": cases.sensor(self.sensor, self.severities),
            "cameras": cases.cameras(self.cameras),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDriftSettings(DriftSettings):
    """Drifts."""

    corruptions: tuple[str, ...] = setting(f"corruptions of the processed images, some of {', '.join(CORRUPTIONS)}", ())

    @property
    def known_cases(self) -> dict[str, list[Case]]:
        """The cases of each kind of drift, in the order of `names.DRIFTS`."""
        from r2l_jax.drift import cases

        return {**super().known_cases, "corruptions": cases.corruptions(self.corruptions, self.severities)}


def with_changes(settings: type[Drifts], **changes: tuple[Any, str]) -> type[Drifts]:
    """Makes a base class with other defaults of some flags, and with conditions (`flags.Declared.needs`) for them."""
    known = {field.name: field for field in dataclasses.fields(settings)}
    fields = []
    for name, (default, needs) in changes.items():
        (declared,) = known[name].metadata.values()
        fields.append((name, known[name].type, setting(**{**declared._asdict(), "default": default, "needs": needs})))
    options: Any = {"bases": (settings,), "frozen": True, "kw_only": True, "namespace": {"__doc__": settings.__doc__}}
    return dataclasses.make_dataclass(settings.__name__, fields, **options)

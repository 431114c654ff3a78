"""The content of monitor.json, which `apps.monitor` writes, and reports and the page read."""

import msgspec

from r2l_jax.drift.results import Count, Estimate, OfFolds


class Cause(msgspec.Struct, frozen=True):
    """A change between two sets of mosaics.

    Attributes:
        name: a key of `causes.UNITS`. `scene` is another mix of the reference's classes; `unexplained` is what neither
            the camera nor the mix explains.
        value: its size in `unit`.
        low: the lower end of its interval of 95%.
        high: the upper end.
        unit: the unit of the three.
        evidence: half of the chi-square that only this cause explains, beyond what chance would; above 0.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    evidence: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} {self.unit} ({self.low:.3g} to {self.high:.3g})"


class ExpectedScore(msgspec.Struct):
    """A score to expect with its interval of 95%, see `expected`."""

    mean: float
    low: float
    high: float
    method: str


class Statistic(msgspec.Struct, frozen=True):
    """The test of a single statistic.

    Attributes:
        name: the name of the statistic.
        reference: its median in the reference.
        new: its median in the new images.
        distance: the Kolmogorov-Smirnov distance of the two distributions.
        p_value: with Holm's correction for the number of statistics.
    """

    name: str
    reference: float
    new: float
    distance: float
    p_value: float


class Window(msgspec.Struct):
    """A window of new images.

    Attributes:
        name: the day, the model or the folder of the images, if windows were made by it, and a number.
        images: how many there are.
        alarm: whether they have drifted.
        p_value: the probability of such a difference, or a greater one, among images without drift.
        causes: what has changed, the strongest first; empty without an alarm.
        tests: the p-value of each test by itself, see `alarm`.
        statistics: the statistics that have changed most.
        confidence: the mean confidence of the models.
    """

    name: str
    images: Count
    alarm: bool
    p_value: float
    causes: list[Cause]
    tests: dict[str, float]
    statistics: list[Statistic]
    confidence: float


class Remedy(msgspec.Struct):
    """The gain of mending by statistics, on the reference under the causes.

    Attributes:
        images: how many images the models are mended by.
        before: the score on the others before that.
        after: the score after it.
        gain: the difference with its interval.
        refused: why the models would stay as they are, if they would.
        command: predicts with mended models.
    """

    images: Count
    command: str
    before: float | None = None
    after: float | None = None
    gain: Estimate | None = None
    refused: str | None = None

    @property
    def helps(self) -> bool:
        """Whether the score would rise, by the tenth of a point that is shown."""
        return self.gain is not None and self.gain.estimate >= 0.0005


class Watched(OfFolds):
    """A monitor.json, which monitor.py writes.

    Attributes:
        alarm: whether any window has drifted.
        p_value: of all windows together; of the most extreme window, if new files are followed.
        false_alarms: how often an alarm is false, in words.
        windows: the windows.
        causes: what has changed in the latest windows with an alarm.
        expected_score: the score to expect in these windows, or on the reference if there was no alarm; None if nothing
            tells it.
        score: the name of the score.
        reference: the score on the reference.
        by_confidence: the score to expect by confidence alone.
        remedy: the gain of mending by statistics, if the camera explains the drift.
        tolerated: for each cause that is a value of the processing, whether forensics found it tolerated.
        undiagnosed: why no causes are named for images of these models; None if they are.
    """

    alarm: bool
    p_value: float
    false_alarms: str
    windows: list[Window]
    causes: list[Cause]
    expected_score: ExpectedScore | None
    score: str
    reference: ExpectedScore | None = None
    by_confidence: list[ExpectedScore] = msgspec.field(default_factory=list)
    remedy: Remedy | None = None
    tolerated: dict[str, bool] = msgspec.field(default_factory=dict)
    undiagnosed: str | None = None

    @property
    def verdict(self) -> str:
        """The result in one line."""
        count = sum(window.alarm for window in self.windows)
        if not self.alarm:
            return f"no drift in {len(self.windows)} windows, p = {self.p_value:.2g}"
        causes = f"; now {', '.join(map(str, self.causes[:2]))}" if self.causes else ""
        found = self.expected_score
        score = f"; expected {self.score} {found.mean:.3f} ({found.low:.3f} to {found.high:.3f})" if found else ""
        return f"drift in {count} of {len(self.windows)} windows, p = {self.p_value:.2g}{causes}{score}"

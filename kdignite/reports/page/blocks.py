"""What a page is made of, as values: the template shows them, and nothing else decides how they look."""

from typing import NamedTuple


class Cell(NamedTuple):
    """A cell of a table: what is shown, what it is sorted by, and the page it leads to."""

    text: str
    value: float | None = None
    href: str = ""


class Table(NamedTuple):
    """Rows under named columns; the first ``num_names`` columns are text, the others numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    num_names: int = 1
    sortable: bool = True


class Shade(NamedTuple):
    """A cell of a matrix: its text, how dark it is in [0, 1], and whether it is below zero."""

    text: str
    strength: float
    negative: bool = False


class Matrix(NamedTuple):
    """A table of shaded cells, such as a confusion matrix."""

    caption: str
    corner: str  # what rows and columns are
    rows: list[str]
    columns: list[str]
    cells: list[list[Shade]]
    signed: bool = False


class Tick(NamedTuple):
    place: float  # in units of the chart
    text: str


class Line(NamedTuple):
    """A curve: its points in units of the chart, and the colour and dashes of its role."""

    name: str
    tone: str
    points: list[tuple[float, float]]


class Lines(NamedTuple):
    """A chart of curves over the epochs."""

    title: str
    alt: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    height: float


class Bar(NamedTuple):
    """A bar of the reliability diagram; places and sizes in units of the chart."""

    x: float
    width: float
    top: float  # of the accuracy
    mark: float  # the mean confidence
    share: float  # height of the bar of images below


class Reliability(NamedTuple):
    """Accuracy at each confidence, beside the diagonal of a perfectly calibrated model."""

    title: str
    alt: str
    tone: str
    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    height: float


class Effect(NamedTuple):
    """A row of a forest chart: a difference, its interval, and those of the seeds; places in units of the chart."""

    name: str
    text: str
    tone: str
    is_shown: bool  # the test, corrected for all comparisons, shows a difference
    y: float
    x: float | None  # None: it is not compared
    low: float | None
    high: float | None
    is_cut: tuple[bool, bool]  # whether the interval goes on beyond the chart
    seeds: list[float]


class Forest(NamedTuple):
    """Differences to a baseline below one another."""

    title: str
    alt: str
    effects: list[Effect]
    zero: float
    other: float | None  # of the row that the others are compared with too
    other_name: str
    x_ticks: list[Tick]
    legend: list[tuple[str, str]]  # tone and text of each mark
    height: float


class Mark(NamedTuple):
    """A point of a chart, drawn as its kind is."""

    kind: str  # complete, stopped, below, chosen
    x: float
    y: float


class Scatter(NamedTuple):
    """A chart of points."""

    title: str
    alt: str
    marks: list[Mark]
    x_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    legend: list[tuple[str, str]]  # kind and text of each mark
    height: float


class Answer(NamedTuple):
    """What a model, or the label, says of an image."""

    who: str
    text: str
    right: bool | None = None  # None: the label itself


class Picture(NamedTuple):
    """An image with the answers to it."""

    source: str  # a data URI
    alt: str
    is_small: bool  # its pixels are shown as squares
    answers: list[Answer]


class Gallery(NamedTuple):
    pictures: list[Picture]


class Text(NamedTuple):
    text: str


class Code(NamedTuple):
    """What to type."""

    lines: list[str]


class Tile(NamedTuple):
    """A number of the first lines."""

    label: str
    number: str
    note: str = ""


Chart = Lines | Reliability | Forest | Scatter
Block = Chart | Table | Matrix | Gallery | Text | Code


class Section(NamedTuple):
    """A part of a page; folded ones are opened by the reader."""

    title: str
    blocks: list[Block]
    is_folded: bool = False

    @property
    def key(self) -> str:
        """Its id in the page."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


class Page(NamedTuple):
    """A whole page."""

    name: str
    about: str  # what it is of, in one line
    headline: str
    lead: list[str]
    tiles: list[Tile]
    notes: list[str]  # what weakens the result
    sections: list[Section]

"""A page as one file: template, style and script of this folder, with every text of the page escaped."""

import base64
import hashlib
import os
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

import kdignite
from kdignite.errors import spelled
from kdignite.files import write_text
from kdignite.reports.page.blocks import Block, Chart, Page
from kdignite.reports.page.charts import FRAME

HERE = Path(__file__).parent
REPORT = "report.html"


def page_text(page: Page) -> str:
    """The page as HTML that loads nothing; its policy lets no script run but the one it brings."""
    parts = {name: Markup((HERE / f"page.{kind}").read_text("utf-8")) for name, kind in _FILES.items()}
    digest = hashlib.sha256(parts["script"].encode()).digest()
    script_hash = f"sha256-{base64.b64encode(digest).decode()}"
    return _template().render(
        page=page, frame=FRAME, version=kdignite.__version__, script_hash=script_hash, newline=Markup("\n"), **parts
    )


def write_page(page: Page, folder: Path) -> Path:
    """Write ``report.html`` into a folder, where it takes the place of an earlier one."""
    write_text(folder / REPORT, page_text(page))
    return folder / REPORT


def page_of(run: Path, folder: Path) -> str:
    """The way from a folder to the page of a run; empty where there is none."""
    page = run / REPORT
    return quote(os.path.relpath(page, folder)) if page.is_file() else ""


_FILES = {"style": "css", "script": "js"}


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
    )
    environment.filters["charts_together"] = _charts_together
    environment.filters["kind"] = lambda block: type(block).__name__.lower()
    return environment.get_template("page.html")


def _visible(value: Any) -> Any:
    """Control characters of a text spelled out."""
    return spelled(value) if type(value) is str else value


def _charts_together(blocks: list[Block]) -> list[tuple[bool, list[Block]]]:
    """Neighbouring charts, which share a row where there is room, and the blocks between them."""
    return [(is_chart, list(group)) for is_chart, group in groupby(blocks, lambda one: isinstance(one, Chart))]

"""HTML files, each made of a template and its content."""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matseg_shared.console.command import jsonable
from matseg_shared.errors import MissingExtraError
from matseg_shared.pages.charts import Chart
from matseg_shared.system.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

_PACKAGES = ("jinja2", "plotly")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The description of a kind of page."""

    package: str
    """Import name of the package that holds `templates/` and `static/`."""
    name: str
    """File in `templates/`; it extends `base.html.j2`."""
    scripts: tuple[str, ...] = ()
    """Files in `static/` that the page runs after the common one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A name and a value, for tiles and for lists."""

    name: str
    value: str
    note: str = ""
    """Beside or under the value, smaller."""
    code: bool = False
    """A path, a hash or the like."""


def is_installed() -> bool:
    """True when pages can be made here."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def require_report_extra(purpose: str) -> None:
    """Say what is missing before work is done.

    Raises:
        MissingExtraError: the extra `report` is not installed.
    """
    if not is_installed():
        raise MissingExtraError("report", purpose)


def write_page(
    path: Path, template: Template, *, title: str, content: Any, charts: Iterable[Chart], data: Any = None
) -> None:
    """Fill in a template and write the page, whole or not at all.

    Args:
        content: a dataclass, `page` in the template; all text in it is escaped there.
        charts: what the template names with `chart(id)`.
        data: a dataclass for the page's scripts, or None.

    Raises:
        MissingExtraError: the extra `report` is not installed.
        OutputError: the file cannot be written.
    """
    require_report_extra(f"{path.name}")
    shown = list(charts)
    common = files("matseg_shared.pages") / "static"
    own = files(template.package) / "static"
    scripts = [common / "page.js", common / "charts.js", *(own / name for name in template.scripts)]
    text = (
        _environment(template.package)
        .get_template(template.name)
        .render(
            page=content,
            title=title,
            made=datetime.now().astimezone(),
            style=(common / "page.css").read_text(encoding="utf-8"),
            scripts=[script.read_text(encoding="utf-8") for script in scripts],
            charts={chart.id: chart for chart in shown},
            data={"charts": shown, "page": data},
            library=packed_library() if shown else "",
            nonce=hashlib.sha256(f"{title}{path.name}".encode()).hexdigest()[:24],
        )
    )
    write_text(path, text)


def prepare_page(template: Template) -> None:
    """Do the longer half of `write_page` beforehand: the part that is the same whatever the content."""
    environment = _environment(template.package)
    for name in environment.list_templates():
        environment.get_template(name)
    packed_library()


@functools.cache
def packed_library() -> str:
    """plotly.js from the installed package, gzipped and in base64: 2 MB instead of 5 in every page.

    The browser unpacks it after the page is shown; a page without it lacks its charts, and says so.
    """
    script = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 4, mtime=0)).decode("ascii")


@functools.cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("matseg_shared.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # folding constants pays for templates that are filled in many times
    )
    environment.policies["json.dumps_function"] = lambda data, **_: json.dumps(
        jsonable(data), allow_nan=False, separators=(",", ":")
    )
    environment.filters |= {
        "percent": percent,
        "figure": figure,
        "signed": signed_percent,
        "count": count,
        "css": css_colour,
    }
    return environment


def percent(value: float | None, digits: int = 2) -> str:
    """A share for a person; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def signed_percent(value: float | None, digits: int = 2) -> str:
    """A difference of shares for a person; never minus nothing."""
    if value is None:
        return "–"
    shown = f"{value:+.{digits}%}"
    return f"{0:.{digits}%}" if float(shown[:-1]) == 0 else shown.replace("-", "\u2212")


def figure(value: float | None, digits: int = 4) -> str:
    """A number for a person; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def count(value: float) -> str:
    """A whole number with narrow gaps between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def css_colour(colour: Iterable[int]) -> str:
    """RGB as #rrggbb."""
    red, green, blue = colour
    return f"#{red:02x}{green:02x}{blue:02x}"

"""Templates of this folder, with everything escaped that comes from files."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def script_data(data: object) -> Markup:
    """Return data as JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def render(template: str, **values: Any) -> str:
    """Return a template of this folder with values filled in, each escaped."""
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Markup:
    """Return a file of this folder that goes into a page as it is: a style sheet, or a script."""
    return Markup(files("fuzzvm.report.html").joinpath(name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fuzzvm.report.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_data"] = script_data
    environment.globals["asset"] = asset
    return environment

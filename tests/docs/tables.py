"""Tables of README.md that are written by the code they describe.

`python -m tests.docs.tables` writes them anew.
"""

import pathlib
from collections.abc import Iterator

import annotated_types
import pydantic
from pydantic.fields import FieldInfo

from coordinator.config import Settings
from coordinator.protocol.plans import Plan
from tests.docs import pages

Model = type[pydantic.BaseModel]


def settings_table() -> str:
    """Every setting of the coordinator."""
    rows = [
        (f"`SHOAL_{name.upper()}`", _default(field), _meaning(field))
        for name, field in Settings.model_fields.items()
    ]
    return _table(("variable", "default", "meaning"), rows)


def plan_table() -> str:
    """Every field of a plan, nested tables by their dotted names."""
    rows = [
        (f"`{name}`", _default(field), _range(field), _meaning(field))
        for name, field in plan_fields(Plan)
    ]
    return _table(("field", "default", "range", "meaning"), rows)


def plan_fields(model: Model, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted names and fields of everything that a plan may say."""
    for name, field in model.model_fields.items():
        nested = _nested(field)
        if nested is None:
            yield prefix + name, field
        else:
            yield from plan_fields(nested, f"{prefix}{name}.")


def replace(page: str, name: str, table: str) -> str:
    """The page with the table between its two markers replaced."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    if not after:
        raise ValueError(f"the page has no markers for {name!r}")
    return f"{before}{start}\n{table}\n{end}{after}"


def rewrite(path: pathlib.Path) -> str:
    """What the page must say."""
    page = path.read_text(encoding="utf-8")
    page = replace(page, "settings", settings_table())
    return replace(page, "plan", plan_table())


def _nested(field: FieldInfo) -> Model | None:
    candidates = getattr(field.annotation, "__args__", (field.annotation,))
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, pydantic.BaseModel):
            return candidate
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{field.default}`"


def _range(field: FieldInfo) -> str:
    signs = (
        (annotated_types.Gt, "gt", "> {:,}"),
        (annotated_types.Ge, "ge", "≥ {:,}"),
        (annotated_types.Lt, "lt", "< {:,}"),
        (annotated_types.Le, "le", "≤ {:,}"),
    )
    limits = []
    for kind, attribute, text in signs:
        limits += [
            text.format(getattr(limit, attribute))
            for limit in field.metadata
            if isinstance(limit, kind)
        ]
    if not limits:
        choices = getattr(field.annotation, "__args__", ())
        return ", ".join(f"`{choice}`" for choice in choices if isinstance(choice, str))
    return ", ".join(limits)


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    pages.README.write_text(rewrite(pages.README), encoding="utf-8")

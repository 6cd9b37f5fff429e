"""What the tests read out of the project's pages."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
DEVICE_API = ROOT / "docs" / "device-api.md"
README = ROOT / "README.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """The fenced blocks of one language, in the order of the page."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for tag, text in found if tag == language]


def table_rows(page: pathlib.Path, first_header: str) -> list[list[str]]:
    """The cells of the table whose first column has this header, without header."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(
        number
        for number, line in enumerate(lines)
        if line.startswith(f"| {first_header} |")
    )
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip().replace(r"\|", "|") for cell in cells])
    return rows

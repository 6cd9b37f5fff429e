"""What the pages say of files, commands, settings and plans is so."""

import pathlib
import re
import shlex

import pytest

from coordinator.protocol.plans import Plan
from tests.docs import commands, pages, tables

PAGES = sorted([*pages.ROOT.glob("*.md"), *pages.ROOT.glob("docs/*.md")])
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MODULE = re.compile(r"python -m (\w+)(.*)")


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings
    }


def test_the_pages_are_here() -> None:
    assert {page.name for page in PAGES} >= {
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "DECISIONS.md",
        "README.md",
        "device-api.md",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: pathlib.Path) -> None:
    broken = []
    for link in _LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def test_the_readme_tables_are_what_the_code_says() -> None:
    # `python -m tests.docs.tables` writes them anew.
    assert pages.README.read_text() == tables.rewrite(pages.README)


def test_the_plan_table_names_every_field_of_a_plan() -> None:
    names = [row[0].strip("`") for row in pages.table_rows(pages.README, "field")]
    assert names == [name for name, _ in tables.plan_fields(Plan)]
    assert {name.partition(".")[0] for name in names} == set(Plan.model_fields)


def test_every_command_in_the_readme_is_one() -> None:
    parsed = []
    for line in commands.typed(pages.README):
        found = _MODULE.search(line)
        if found is None:
            continue
        program, words = found[1], shlex.split(found[2])
        parsed.append((program, commands.parse(program, words)))
    assert {program for program, _ in parsed} == set(commands.PROGRAMS)


def test_every_make_target_named_is_one() -> None:
    makefile = (pages.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|\$ )make (\w+)", page.read_text())
    }
    assert named >= {"swarm", "test", "check"}
    assert named <= targets


def test_the_swarm_arguments_in_the_readme_are_options() -> None:
    arguments = re.findall(r'SWARM_ARGS="([^"]*)"', pages.README.read_text())
    assert arguments
    for each in arguments:
        options = commands.parse("device_sim", shlex.split(each))
        assert (options["dropout"], options["alpha"]) == (0.3, 0.1)

"""What the docs say of the code is drawn from the code."""

import re
import runpy
from pathlib import Path

from tests.harness.paths import ROOT


def test_the_life_cycle_page_is_what_the_tables_give() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_lifecycle.py"))["document"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text() == made, "run: make docs"


def test_every_link_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    broken = [f"{page.relative_to(ROOT)}: {link}" for page in pages for link in links(page) if not leads(page, link)]
    assert broken == []


def links(page: Path) -> list[str]:
    """The links of a page to files and headings of the project."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]


def leads(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in anchors(target))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

"""What the docs say of the code is drawn from the code."""

import runpy

from tests.harness.paths import ROOT


def test_the_life_cycle_page_is_what_the_tables_give() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_lifecycle.py"))["document"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text() == made, "run: make docs"

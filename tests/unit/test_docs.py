"""What the docs say of the code is drawn from the code."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_life_cycle_page_is_what_the_tables_give() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_lifecycle.py"))["document"]()
    assert (ROOT / "docs" / "lifecycle.md").read_text() == made, "run: make docs"

"""docs/verdicts.md names the tests that pin what it says: each of them exists."""

import re

from tests.harness.paths import ROOT


def test_the_page_on_verdicts_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "verdicts.md").read_text()))
    sources = [path.read_text() for path in (ROOT / "tests" / "broker").glob("test_*.py")]
    defined = {name for source in sources for name in re.findall(r"^def (test_\w+)\(", source, re.MULTILINE)}
    assert named
    assert named <= defined

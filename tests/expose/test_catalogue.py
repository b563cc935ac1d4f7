"""The catalogue's own rules, and that the documentation says the same."""

import pytest

from tests.harness.paths import ROOT
from txninsightd.expose.catalogue import CATALOGUE, Definition, MetricType, markdown_table


@pytest.mark.parametrize("definition", CATALOGUE, ids=lambda d: d.name)
def test_a_metric_keeps_to_the_conventions(definition: Definition) -> None:
    assert definition.name.startswith("txninsight_")
    assert definition.name.endswith("_total") == (definition.type is MetricType.COUNTER)
    assert definition.name.endswith("_seconds") == (definition.unit == "seconds")
    assert definition.name.endswith("_bytes") == (definition.unit == "bytes")
    assert definition.help.endswith(".")
    assert "txn_id" not in definition.labels


@pytest.mark.parametrize("definition", CATALOGUE, ids=lambda d: d.name)
def test_what_counts_says_where_it_is_counted(definition: Definition) -> None:
    counts = definition.type in (MetricType.COUNTER, MetricType.HISTOGRAM)
    assert (definition.counted is not None) == counts, "`counted` tells monotonic_counters.py what a restart does to it"


def test_no_name_is_given_twice() -> None:
    names = [d.name for d in CATALOGUE]
    assert len(names) == len(set(names))


def test_the_documentation_shows_the_catalogue() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    assert markdown_table() in documented, "write the output of `python -m txninsightd.expose.catalogue` there"

"""What a page of /metrics says: its samples by name and labels, and sums over them."""

from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""By name and sorted labels."""


def parse_samples(text: str) -> Samples:
    """All samples of a page."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """The sum over a metric's samples that have these labels."""
    wanted = set(labels.items())
    return sum(value for (found, of), value in samples.items() if found == name and wanted <= set(of))

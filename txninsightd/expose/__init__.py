"""What the outside sees: the metric catalogue, the collector, the HTTP API."""

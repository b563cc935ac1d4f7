"""The daemon's outputs: the metric catalogue, the collector, the HTTP API and the operator socket."""

"""A live view of business transactions that run through Kafka."""

__version__ = "0.1.0"

"""The only place in the daemon that consumes Kafka: one reader, two roles (monitor, validator)."""

"""What the daemon asks the Kafka cluster: partitions, topic ids and policies, metadata; and what any client needs."""

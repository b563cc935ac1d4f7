"""Programs around the daemon: simulator, replayer, the local stack. They know the vocabulary, never the core."""

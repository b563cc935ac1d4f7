"""Decisions: pure code without clock, I/O, logging or processes. It is handed `now` and returns what happened."""

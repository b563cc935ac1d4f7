"""Processes: the parent loop, the children, the channels between them, signals."""

"""The fault campaign: what is written, what is broken, and what must be so afterwards."""

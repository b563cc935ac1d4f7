"""The fault campaign: what is written, who keeps the daemon alive, what is broken and what must be so afterwards."""

"""`make bench`: what one event costs, measured on the installed daemon and a real broker with a preloaded topic."""

"""`make soak`: the installed daemon and a real broker under a steady load for an hour, and what grows meanwhile.

load.py writes (a process of its own), instruments.py asks the daemon as its users would, processes.py looks at it from
outside, experiment.py puts them together, report.py turns what they saw into figures and tables.
"""

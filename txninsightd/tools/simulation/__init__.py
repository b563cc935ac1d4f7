"""The simulator's parts; `txninsightd.tools.sim` is the program. Read in this order:

scenario.py     the form of a scenario file (validation_errors.py: what is wrong with one, by line and key)
delays.py       distributions of times
operations.py   what each transaction will do, healthy or failing: pure lists of operations
clock.py        an event loop in virtual time
kafkalog.py     a model of the broker's log: open Kafka transactions, the last stable offset, when a record is decided
engine.py       flows, producers and transactions that run the operations
evaluation.py   the expected result of one transaction: states, causes, lives (figures.py: its measurements)
truth.py        the expected results of all transactions, and the totals
output.py       the lines of events.jsonl
"""

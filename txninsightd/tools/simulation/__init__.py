"""The simulator's parts; `txninsightd.tools.sim` is the program. Read in this order:

scenario.py   what a scenario file may say (complaints.py: what is wrong with one, by line and key)
delays.py     how long things take
scripts.py    what each transaction will do, healthy or failing: pure lists of operations
clock.py      an event loop whose time leaps
kafkalog.py   a model of the broker's log: who is open, where the last stable offset stands, what is decided when
actors.py     flows, producers and transactions that play the scripts
telling.py    what becomes of one transaction: states, causes, lives (figures.py: what is measured of it)
truth.py      the book of all transactions, and the sums
output.py     the lines that are written
"""

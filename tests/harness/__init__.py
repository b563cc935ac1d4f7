"""What the tests stand on: real brokers, daemons and monitoring programs, what is done to them, and what judges them.

Nothing here is a test, and nothing here knows a test module; docs/development.md lists the modules.
"""

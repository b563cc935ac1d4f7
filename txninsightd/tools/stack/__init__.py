"""A real one-node Kafka and the daemon on this machine, for `make up`, `make demo` and the tests: no container engine.

`jars` fetches the broker from Maven Central at a pinned version and checks it by sum, `machine` sees to Java and
Maven, `broker` runs one broker, `supervision` writes the files of a supervised stack, and `up` is the command behind
the Makefile. Whatever a person at the keyboard can put right is a `StackError` that says how.
"""


class StackError(Exception):
    """The stack cannot do what was asked; the text says what to do about it."""

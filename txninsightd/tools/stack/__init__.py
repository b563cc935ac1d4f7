"""The whole stack on this machine, for `make up`, `make demo` and the tests, without containers.

It runs a real one-node Kafka, the daemon, Prometheus, Alertmanager, Grafana if installed, and local receivers in place
of PagerDuty and Slack. `jars` fetches the broker from Maven Central at a pinned version and verifies its checksums.
`machine` installs Java, Maven and Debian packages. `broker` runs one broker. `monitoring` adapts the shipped monitoring
files (`alerting` those of Alertmanager, `time_scale` their durations). `supervision` writes the files of a supervised
stack, and `up` implements the Makefile's commands. If you can fix an error, it is a `StackError` with a text that says
how.
"""


class StackError(Exception):
    """The stack cannot do what was requested; the text says how to fix it."""

"""The whole stack on this machine, for `make up`, `make demo` and the tests, with no container engine.

That is a real one-node Kafka, the daemon, Prometheus, Alertmanager, Grafana where it is installed, and local receivers
in place of PagerDuty and Slack. `jars` fetches the broker from Maven Central at a pinned version and checks it by sum,
`machine` sees to Java, Maven and Debian's packages, `broker` runs one broker, `monitoring` adapts the monitoring files
that ship (`alerting` those of Alertmanager, `time_scale` their pace), `supervision` writes the files of a supervised
stack, and `up` is the command behind the Makefile. Whatever a person at the keyboard can put right is a `StackError`
that says how.
"""


class StackError(Exception):
    """The stack cannot do what was asked; the text says what to do about it."""

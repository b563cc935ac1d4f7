"""Writes the rules and the scrape job for the Prometheus operator: prometheusrule.yaml and servicemonitor.yaml.

The groups of monitoring/prometheus/rules are copied as text, with comments and line breaks, so both versions read the
same. After a change there, run

    python monitoring/kubernetes/render.py

A test compares the committed files with this output.
"""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
PROMETHEUS = HERE.parent / "prometheus"
RULES = PROMETHEUS / "rules"

GENERATED = "# Written by monitoring/kubernetes/render.py from monitoring/prometheus: do not edit.\n"

PROMETHEUS_RULE = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: txninsightd
  labels:
    app.kubernetes.io/name: txninsightd
    # The label that your Prometheus selects rules by (its ruleSelector); in kube-prometheus-stack it is the release's
    # name.
    release: prometheus
spec:
  groups:
"""

SERVICE_MONITOR = """\
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: txninsightd
  labels:
    app.kubernetes.io/name: txninsightd
    # The label that your Prometheus selects monitors by (its serviceMonitorSelector).
    release: prometheus
spec:
  # The Service in front of the daemon: it needs this label and a port with the name below.
  selector:
    matchLabels:
      app.kubernetes.io/name: txninsightd
  endpoints:
    - port: http
      path: /metrics
      interval: {interval}
      scrapeTimeout: {timeout}
      relabelings:
        # The rules TxninsightDown and TxninsightAbsent use the name of the job.
        - targetLabel: job
          replacement: {job}
"""


def prometheus_rule() -> str:
    """The PrometheusRule with all groups, in the order of the file names."""
    return GENERATED + PROMETHEUS_RULE + "".join(groups(path) for path in sorted(RULES.glob("*.yml")))


def service_monitor() -> str:
    """The ServiceMonitor with the settings of the scrape job in prometheus.yml."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,), pace = config["scrape_configs"], config["global"]
    return GENERATED + SERVICE_MONITOR.format(
        job=job["job_name"], interval=pace["scrape_interval"], timeout=pace["scrape_timeout"]
    )


def groups(path: Path) -> str:
    """The groups of a rule file as text, indented by two columns. Raises ValueError if it has no line `groups:`."""
    _, found, listed = path.read_text().partition("\ngroups:\n")
    if not found:
        raise ValueError(f"{path}: expected a line `groups:`")
    return "".join(f"  {line}" if line.strip() else line for line in listed.splitlines(keepends=True))


def rendered() -> dict[str, str]:
    """The text of each file, by its name."""
    return {"prometheusrule.yaml": prometheus_rule(), "servicemonitor.yaml": service_monitor()}


if __name__ == "__main__":
    for name, text in rendered().items():
        (HERE / name).write_text(text)

"""The Grafana dashboards of txninsightd, as code.

`python -m monitoring.grafana` writes dashboards/*.json from the modules beside this one, one for each dashboard; a test
holds what is checked in equal to what they say, so the JSON is never edited by hand. The four lead from "something is
off" to the one transaction: the overview, one transaction type, how far Kafka has been read, and the daemon itself.

The JSON is that of Grafana 9.3 (schema version 37), which every later Grafana still loads: no newer panel type, every
data source by variable. provisioning/ has what a Grafana reads at its start.
"""

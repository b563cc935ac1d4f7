"""The Grafana dashboards of txninsightd, as code.

`python -m monitoring.grafana` writes dashboards/*.json from the modules in this folder, one module per dashboard. A
test compares the committed JSON with them, so do not edit the JSON. The four dashboards lead from a symptom to one
transaction: the overview, one transaction type, the Kafka view, and the daemon itself.

The JSON is that of Grafana 9.3 (schema version 37), which later versions still load: it has no newer panel type, and a
variable for every data source. provisioning/ has the files that Grafana reads at its start.
"""

"""The steps of txninsight-replay: survey the file, check the cluster, dispatch lines to producers, report.

plan -> cluster -> dispatcher -> workers -> publisher (or crashing_producer) -> report
"""

"""txninsight-replay, step by step: survey the file, look at the cluster, conduct the producers, report.

plan -> cluster -> conductor -> workers -> publisher (or doomed, for a producer that will crash) -> report
"""

"""Asset checks: the data-quality gates.

Belongs here: which partitions a check reads, and how it shows faults. Does not belong here: the rules for bars and
partitions (``domain``), which partitions are blocked (``pipeline.gates``), SQL (``storage``).
"""

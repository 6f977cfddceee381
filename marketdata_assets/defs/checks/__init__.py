"""Asset checks: the data-quality gates.

Belongs here: which partitions a check reads and how it shows what it found. Does not belong here: what is wrong with a
bar or a partition (``domain``), which partitions that blocks (``pipeline.gates``), SQL (``storage``).
"""

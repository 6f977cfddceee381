"""Asset checks: the data-quality gates.

Belongs here: what a check looks at and how it shows what it found. Does not belong here: what is wrong with a
bar or a partition (``domain``), or reading it (``storage``).
"""

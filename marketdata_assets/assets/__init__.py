"""The assets: what is materialized, from what, in which partitions.

Belongs here: asset definitions and the order of their steps. Does not belong here: decisions (``domain``),
requests (``polygon``), SQL (``storage``).
"""

"""The assets: what is materialized, from what, in which partitions, and what a run shows in the UI.

Belongs here: asset definitions, their configuration, descriptions, metadata and pictures.
Does not belong here: what a run does (``pipeline``), decisions (``domain``), requests (``polygon``), SQL (``storage``).
"""

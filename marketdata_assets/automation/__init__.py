"""A former address, which copies of ``dagster.yaml`` from earlier versions name: ``defs.instance`` has what they mean.

Belongs here: nothing new.
"""

"""Runs that a command or a sensor starts: their partitions, their execution and their reports.

Belongs here: range runs, the stages of a backfill, a command's runs, the latest runs of each job.
Does not belong here: what a run does (``pipeline``), when the daemon starts one (``defs.schedules``, ``defs.sensors``),
how it is shown (``cli``).
"""

"""Runs that a command or a sensor starts: their partitions, their execution and their reports.

Belongs here: the execution of range runs and of a backfill's runs, a command's runs, the latest runs of each job.
Does not belong here: which runs a backfill needs, and what a run does (``pipeline``), when the daemon starts one
(``defs.schedules``, ``defs.sensors``), how it is shown (``cli``).
"""

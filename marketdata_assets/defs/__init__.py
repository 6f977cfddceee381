"""Everything that knows Dagster: how the use-cases are run, in which partitions, when, and what starts them.

Belongs here: ``assets``, ``checks``, ``sensors``, schedules, jobs, ``resources``, ``runs`` (what a command or a sensor
starts) and ``instance`` (storage, launcher, Dagster's private parts).
Does not belong here: what a run does (``pipeline``), SQL (``storage``), how anything is shown in a terminal (``cli``).
Outside ``definitions``, ``cli`` and ``deploy``, nothing imports this package.
"""

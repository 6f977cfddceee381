"""Resources: the vendor, Postgres and the IO manager as Dagster passes them to assets, checks and sensors.

Belongs here: settings that a run's configuration may change, and the calls that Dagster's contexts become. It imports
``pipeline``, ``storage`` and ``polygon``.
Does not belong here: how a request is made (``polygon``), how rows are written (``storage``).
"""

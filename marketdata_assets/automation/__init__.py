"""What sets assets in motion: runs, jobs, schedules and sensors.

Belongs here: which partitions a run takes and when it starts. Does not belong here: what an asset does
(``assets``), how it is shown (``cli``).
"""

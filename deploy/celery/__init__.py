"""Steps on Celery workers: definitions for the code server, and the setting of the workers."""

"""Asset checks: the data-quality gates. They ask ``domain`` and show what it says."""

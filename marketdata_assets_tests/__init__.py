"""The test suite: unit tests without I/O, integration tests on a real Postgres, and tests in a browser."""

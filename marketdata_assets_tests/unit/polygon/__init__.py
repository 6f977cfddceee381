"""The vendor edge without a network or a database."""

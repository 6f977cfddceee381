"""The read API over HTTP. It reads through ``storage`` and never writes bars."""

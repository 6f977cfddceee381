"""The vendor edge: requests to Polygon.io (Massive), and the meaning of its answers.

Belongs here: requests, paging, retries, the rate limit, parsing of pages, the vendor's errors and tickers.
Does not belong here: what a valid bar is (``domain``), where bars are stored (``storage``).
"""

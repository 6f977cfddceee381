"""The vendor edge: what is asked of Polygon.io (Massive), how, and what its answers mean.

Belongs here: requests, paging, retries, the rate limit, parsing of pages, the vendor's errors and tickers.
Does not belong here: what a valid bar is (``domain``), where bars are stored (``storage``).
"""

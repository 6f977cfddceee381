"""Features: numbers that describe each bar by itself and the bars before it.

Belongs here: what every column means, how far back it looks, and how it behaves at gaps, sessions and the start
of a history. Does not belong here: where bars come from, split adjustment (``domain.adjust``), where features
are kept.
"""

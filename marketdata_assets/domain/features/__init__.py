"""Features: numbers that describe each bar, computed from the bar and the bars before it.

Belongs here: what every column means, how many bars back it reads, and how it behaves at gaps, sessions and the start
of a history. Does not belong here: where bars come from, split adjustment (``domain.adjust``), where features
are stored.
"""

-- Every read of bars asks whether a gap is lost in its window: a thin series has thousands of others around it.

create index gap_report_lost on gap_report (symbol, timeframe, gap_end) where state in ('open', 'unfilled');

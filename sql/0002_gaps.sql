-- Where a history is not whole, and why; how whole it is, by day and by series.

create table gap_report (
    symbol        text not null,
    timeframe     text not null,
    day           date not null,
    gap_start     timestamptz not null,
    gap_end       timestamptz not null check (gap_end > gap_start),
    missing_bars  bigint not null check (missing_bars > 0),
    state         text not null check (state in ('open', 'filled', 'no_trades', 'unfilled')),
    attempts      integer not null,
    failure       text,
    reason        text not null,
    detected_at   timestamptz not null default now(),
    resolved_at   timestamptz,
    primary key (symbol, timeframe, gap_start)
);
create index gap_report_by_end on gap_report (symbol, timeframe, gap_end);
create index gap_report_worst on gap_report (missing_bars desc) where state in ('open', 'unfilled');
comment on table gap_report is
    'Maximal runs of expected bars that are missing. gap_end is exclusive: the close of the last missing bar.';
comment on column gap_report.day is 'The local date of gap_start: the partition.';
comment on column gap_report.attempts is 'How often the gap was asked for again.';
comment on column gap_report.failure is 'How the vendor failed at the last of them; null when it answered.';
comment on column gap_report.resolved_at is 'When the gap left the state open.';

create table completeness_daily (
    symbol          text not null,
    timeframe       text not null,
    day             date not null,
    expected_bars   bigint not null,
    present_bars    bigint not null,
    no_trade_bars   bigint not null,
    missing_bars    bigint not null,
    completeness    double precision,
    status          text not null,
    checked_at      timestamptz not null default now(),
    primary key (symbol, timeframe, day)
);
comment on table completeness_daily is
    'One row for each series and local day with an expected bar, written when the day was looked through for gaps.';

create table completeness_history (
    symbol          text not null,
    timeframe       text not null,
    expected_bars   bigint not null,
    present_bars    bigint not null,
    no_trade_bars   bigint not null,
    missing_bars    bigint not null,
    completeness    double precision,
    status          text not null,
    first_bar       timestamptz,
    last_bar        timestamptz,
    as_of           date not null,
    primary key (symbol, timeframe, as_of)
);
comment on table completeness_history is 'How whole each series was on each day on which the matrix was made.';

create view completeness_matrix as
select distinct on (symbol, timeframe) * from completeness_history order by symbol, timeframe, as_of desc;

-- Bars, what is collected, and the evidence of how it came here.

create table tracked_symbols (
    symbol         text primary key check (symbol ~ '^[A-Z0-9][A-Z0-9.-]{0,19}$'),
    asset_class    text not null check (asset_class in ('stock', 'etf', 'crypto', 'index')),
    name           text,
    timeframes     text[] not null default '{1h,1d}' check (
        timeframes <@ array['1m', '5m', '15m', '30m', '1h', '4h', '1d', '1w'] and cardinality(timeframes) > 0
    ),
    vendor_ticker  text not null generated always as (
        case asset_class
            when 'crypto' then 'X:' || replace(symbol, '-', '')
            when 'index' then 'I:' || symbol
            else symbol
        end
    ) stored,
    calendar       text not null generated always as (
        case asset_class when 'crypto' then '24/7' else 'XNYS' end
    ) stored,
    active         boolean not null default true,
    position       integer not null generated always as identity,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now()
);
comment on table tracked_symbols is
    'What is collected. Editing timeframes or active by hand is supported: the series follow.';

create table ohlcv (
    symbol        text not null,
    timeframe     text not null,
    time          timestamptz not null,
    open          double precision not null,
    high          double precision not null,
    low           double precision not null,
    close         double precision not null,
    volume        double precision,
    vwap          double precision,
    transactions  bigint,
    base_bars     integer not null,
    stored_at     timestamptz not null default now(),
    primary key (symbol, timeframe, time)
) partition by list (timeframe);
comment on table ohlcv is 'Bars, unadjusted. time is the open, UTC; an index has no volume, vwap or transactions.';
comment on column ohlcv.base_bars is 'How many fetched bars (1m or 1d) this bar is made of.';
comment on column ohlcv.stored_at is 'When this version of the bar was written.';

-- 1m is divided by month so that retention can drop a month; a month is made before its first bar is written.
create table ohlcv_1m  partition of ohlcv for values in ('1m') partition by range (time);
create table ohlcv_5m  partition of ohlcv for values in ('5m');
create table ohlcv_15m partition of ohlcv for values in ('15m');
create table ohlcv_30m partition of ohlcv for values in ('30m');
create table ohlcv_1h  partition of ohlcv for values in ('1h');
create table ohlcv_4h  partition of ohlcv for values in ('4h');
create table ohlcv_1d  partition of ohlcv for values in ('1d');
create table ohlcv_1w  partition of ohlcv for values in ('1w');

create table bar_counts (
    symbol      text not null,
    timeframe   text not null,
    bars        bigint not null,
    primary key (symbol, timeframe)
);
comment on table bar_counts is 'How many bars of each series are stored: counting them would read every bar.';

create table ohlcv_revision (
    symbol        text not null,
    timeframe     text not null,
    time          timestamptz not null,
    open          double precision not null,
    high          double precision not null,
    low           double precision not null,
    close         double precision not null,
    volume        double precision,
    vwap          double precision,
    transactions  bigint,
    base_bars     integer not null,
    stored_at     timestamptz not null,
    replaced_at   timestamptz not null default now(),
    primary key (symbol, timeframe, time, replaced_at)
);
comment on table ohlcv_revision is 'The values that a bar had before the vendor changed it, and when they were replaced.';

create table ohlcv_quarantine (
    id            bigint generated always as identity primary key,
    symbol        text not null,
    timeframe     text not null,
    time          timestamptz,
    rule          text not null,
    vendor_row    jsonb not null,
    first_seen    timestamptz not null default now(),
    last_seen     timestamptz not null default now(),
    times_seen    integer not null default 1
);
create unique index ohlcv_quarantine_row
    on ohlcv_quarantine (symbol, timeframe, rule, md5(vendor_row::text));
comment on table ohlcv_quarantine is 'Vendor rows that broke a rule; they never reach ohlcv.';

create table coverage (
    symbol      text not null,
    timeframe   text not null,
    covered     tstzmultirange not null,
    updated_at  timestamptz not null default now(),
    primary key (symbol, timeframe)
);
comment on table coverage is
    'The windows of each series that were asked of the vendor and stored whole: an empty stretch inside is known to be empty.';

create table fetch_log (
    id                uuid primary key,
    symbol            text not null,
    base              text not null,
    window_start      timestamptz not null,
    window_end        timestamptz not null,
    timeframes        text[] not null,
    status            text not null check (status in ('partial', 'ok', 'failed')),
    pages             integer not null,
    bars              bigint not null,
    retries           integer not null,
    duration_seconds  double precision not null,
    waited_seconds    double precision not null,
    request_id        text,
    error             text,
    run_id            text,
    requested_at      timestamptz not null default now(),
    finished_at       timestamptz
);
create index fetch_log_series on fetch_log (symbol, base, window_start);
create index fetch_log_requested_at on fetch_log (requested_at);
comment on table fetch_log is
    'Every request made of the vendor and what came of it. partial: pages up to here are stored, the rest never arrived.';

create table backfill_history (
    id            uuid primary key,
    started_at    timestamptz not null,
    finished_at   timestamptz,
    status        text not null check (status in ('running', 'ok', 'failed')),
    arguments     jsonb not null,
    summary       jsonb
);

create table rate_limit (
    bucket         text primary key,
    grants         timestamptz[] not null,
    position       integer not null,
    paced_until    timestamptz not null,
    blocked_until  timestamptz not null default '-infinity'
) with (fillfactor = 30);  -- every update rewrites the row: room to do it on the same page
comment on table rate_limit is
    'The vendor''s rate limit, shared by every process: one row per key (a short hash of it), the latest grants in a ring.';

create table vendor (
    only_row       boolean primary key default true check (only_row),
    simulated      boolean not null,
    first_used_at  timestamptz not null default now()
);
comment on table vendor is
    'Where the bars of this store come from, settled by the first request: simulated and real bars never mix.';

create view market_data as
select symbol, timeframe, time, open, high, low, close, volume, vwap, transactions, base_bars, stored_at from ohlcv;

create view backfill_logs as
select requested_at as "timestamp", symbol, base as timeframe, window_start, window_end, status, pages, bars,
       retries, duration_seconds, waited_seconds, request_id, error
from fetch_log;

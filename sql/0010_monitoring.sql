-- How often the vendor said that it was asked too fast.

alter table fetch_log add column rate_limited integer not null default 0;
comment on column fetch_log.rate_limited is
    'Attempts that the vendor refused with 429, counted in retries as well, but for the last one of a request that failed.';

create or replace view backfill_logs as
select requested_at as "timestamp", symbol, base as timeframe, window_start, window_end, status, pages, bars,
       retries, duration_seconds, waited_seconds, request_id, error, rate_limited
from fetch_log;

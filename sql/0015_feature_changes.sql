-- A computation of features must tell "nothing has changed" from "changed, and computed by another since": a mark in
-- features_stale is gone in both cases.

create table feature_changes (
    symbol      text not null,
    timeframe   text not null,
    version     bigint not null,
    primary key (symbol, timeframe)
);
comment on table feature_changes is
    'The version of the latest change of the bars, gaps or splits that the features of a series are computed from.';

-- Relative volume counts sessions now, with or without a bar. An index has none.
insert into features_stale as s (symbol, timeframe, since, reason)
select c.symbol, c.timeframe, first.time, 'relative volume counts sessions'
from bar_counts c
cross join lateral (
    select o.time from ohlcv o where o.symbol = c.symbol and o.timeframe = c.timeframe order by o.time limit 1
) as first
where not exists (select from tracked_symbols t where t.symbol = c.symbol and t.asset_class = 'index')
on conflict (symbol, timeframe) do update set
    since = least(s.since, excluded.since), reason = excluded.reason,
    version = nextval('features_stale_version'), changed_at = now();
insert into feature_changes (symbol, timeframe, version) select symbol, timeframe, version from features_stale;

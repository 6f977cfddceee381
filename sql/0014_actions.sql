-- A split that changes nothing divides no week, no date is infinite, and two dividends of one amount are two.

-- Drivers for Python, Arrow and pandas cannot read an infinite date: the beginning has none. A split from as many shares to
-- as many changes nothing, and crypto and indices never split.
create or replace view split_factors as
select symbol,
       lag(opens) over (partition by symbol order by opens) as since,
       opens as until,
       -- Of whole numbers, as nearly all are, the quotient is the double nearest to the fraction.
       (product(split_from) over onwards)::double precision / (product(split_to) over onwards)::double precision
           as price_factor
from (
    select symbol, split_from, split_to,
           -- Only stocks and ETFs split, and their dates are New York's.
           execution_date::timestamp at time zone 'America/New_York' as opens
    from splits
    where withdrawn_at is null and execution_date <= (now() at time zone 'America/New_York')::date
      and split_from <> split_to
      and symbol not in (select symbol from tracked_symbols where asset_class in ('crypto', 'index'))
) executed
window onwards as (partition by symbol order by opens desc);
comment on view split_factors is
    'What to multiply the prices of bars by that open in [since, until): the splits executed since then, up to today.';
comment on column split_factors.since is 'Null for the beginning.';

create or replace view ohlcv_adjusted as
select b.symbol, b.timeframe, b.time,
       b.open * coalesce(f.price_factor, 1) as open,
       b.high * coalesce(f.price_factor, 1) as high,
       b.low * coalesce(f.price_factor, 1) as low,
       b.close * coalesce(f.price_factor, 1) as close,
       b.volume / coalesce(f.price_factor, 1) as volume,
       b.vwap * coalesce(f.price_factor, 1) as vwap,
       b.transactions, b.base_bars, b.stored_at,
       coalesce(f.price_factor, 1) as split_factor
from ohlcv b
left join split_factors f on f.symbol = b.symbol and (f.since is null or b.time >= f.since) and b.time < f.until
where b.timeframe <> '1w'
union all
-- A week opens on Sunday. A split on its Monday lies before all of its sessions; one on a later day divides
-- it, and such a week is rolled up again from its adjusted days.
select w.symbol, w.timeframe, w.time,
       case when divided then d.open else w.open * factor end,
       case when divided then d.high else w.high * factor end,
       case when divided then d.low else w.low * factor end,
       case when divided then d.close else w.close * factor end,
       case when divided then d.volume else w.volume / factor end,
       case when divided then d.vwap else w.vwap * factor end,
       w.transactions, w.base_bars, w.stored_at,
       case when not divided then factor end
from ohlcv w
-- 26 hours after its open a week is in its Monday and after 146 in its Saturday, whatever the clocks do.
left join split_factors f on f.symbol = w.symbol
    and (f.since is null or w.time + interval '146 hours' >= f.since) and w.time + interval '146 hours' < f.until
cross join lateral (
    select coalesce(f.price_factor, 1) as factor,
           exists (
               select from split_factors s where s.symbol = w.symbol
               and s.until > w.time + interval '26 hours' and s.until < w.time + interval '146 hours'
           ) as divided
    offset 0  -- worked out once for a week, not once for each of its columns
) as week
left join lateral (
    select (array_agg(b.open * coalesce(s.price_factor, 1) order by b.time))[1] as open,
           max(b.high * coalesce(s.price_factor, 1)) as high,
           min(b.low * coalesce(s.price_factor, 1)) as low,
           (array_agg(b.close * coalesce(s.price_factor, 1) order by b.time desc))[1] as close,
           sum(b.volume / coalesce(s.price_factor, 1)) as volume,
           sum(b.vwap * b.volume) filter (where b.vwap is not null)
               / nullif(sum(b.volume / coalesce(s.price_factor, 1)) filter (where b.vwap is not null), 0) as vwap,
           sum(b.base_bars) as base_bars
    from ohlcv b
    left join split_factors s on s.symbol = b.symbol and (s.since is null or b.time >= s.since) and b.time < s.until
    where divided and b.symbol = w.symbol and b.timeframe = '1d'
      and b.time >= w.time and b.time < w.time + interval '146 hours'
) d on d.base_bars = w.base_bars
where w.timeframe = '1w';

alter table rate_limit alter column blocked_until set default 'epoch';
update rate_limit
set grants = array_replace(grants, '-infinity', 'epoch'),
    paced_until = greatest(paced_until, 'epoch'),
    blocked_until = greatest(blocked_until, 'epoch');

alter table dividends add column number smallint not null default 1;
comment on column dividends.number is
    'Tells dividends of one amount and day apart, of two currencies or of two kinds: 1, 2, ….';
alter table dividends drop constraint dividends_pkey;
alter table dividends add primary key (symbol, ex_dividend_date, cash_amount, number);

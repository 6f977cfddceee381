-- Splits, dividends and earnings, and bars on the scale of today.

create table splits (
    symbol           text not null,
    execution_date   date not null,
    split_from       numeric not null check (split_from > 0),
    split_to         numeric not null check (split_to > 0),
    adjustment_type  text,
    vendor_id        text,
    first_seen       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    withdrawn_at     timestamptz,
    primary key (symbol, execution_date)
);
comment on table splits is
    'split_from shares become split_to when execution_date begins, in New York. A row with withdrawn_at adjusts nothing.';
comment on column splits.withdrawn_at is 'When the vendor was first found to list the split no more; null while it does.';

create table dividends (
    symbol             text not null,
    ex_dividend_date   date not null,
    cash_amount        numeric not null check (cash_amount >= 0),
    currency           text,
    distribution_type  text,
    dividend_type      text,
    frequency          integer,
    declaration_date   date,
    record_date        date,
    pay_date           date,
    vendor_id          text,
    first_seen         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    withdrawn_at       timestamptz,
    primary key (symbol, ex_dividend_date, cash_amount)
);
comment on table dividends is
    'Cash per share as paid, in shares of its own time: not adjusted for later splits. No price is adjusted for it.';
comment on column dividends.distribution_type is 'recurring, special …: what the current endpoint says.';
comment on column dividends.dividend_type is 'CD, SC, LT or ST: what the former endpoint says.';

create table earnings (
    symbol             text not null,
    vendor_id          text not null,
    date               date not null,
    time               time,
    date_status        text,
    fiscal_year        integer,
    fiscal_period      text,
    currency           text,
    eps_method         text,
    actual_eps         double precision,
    estimated_eps      double precision,
    previous_eps       double precision,
    revenue_method     text,
    actual_revenue     double precision,
    estimated_revenue  double precision,
    previous_revenue   double precision,
    importance         integer,
    last_updated       timestamptz,
    first_seen         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    withdrawn_at       timestamptz,
    primary key (symbol, vendor_id)
);
create index earnings_date on earnings (symbol, date);
comment on table earnings is
    'Announcements of results, from an add-on to the vendor''s plan. A postponed one keeps its vendor_id.';

create table corporate_action_checks (
    kind        text not null check (kind in ('splits', 'dividends', 'earnings')),
    symbol      text not null,
    endpoint    text not null,
    checked_at  timestamptz not null default now(),
    primary key (kind, symbol)
);
comment on table corporate_action_checks is
    'When the vendor''s whole list of a symbol was last stored: tells a symbol without splits from one never asked about.';

-- Exact, where a sum of logarithms is not.
create aggregate product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1', parallel = safe);

create view split_factors as
select symbol,
       coalesce(lag(opens) over (partition by symbol order by opens), '-infinity') as since,
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
) executed
window onwards as (partition by symbol order by opens desc);
comment on view split_factors is
    'What to multiply the prices of bars by that open in [since, until): the splits executed since then, up to today.';

create view ohlcv_adjusted as
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
left join split_factors f on f.symbol = b.symbol and b.time >= f.since and b.time < f.until
where b.timeframe <> '1w'
union all
-- A week opens on Sunday. A split on its Monday lies before all of its sessions; one on a later day divides
-- it, and such a week is made anew of its adjusted days.
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
    and w.time + interval '146 hours' >= f.since and w.time + interval '146 hours' < f.until
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
    left join split_factors s on s.symbol = b.symbol and b.time >= s.since and b.time < s.until
    where divided and b.symbol = w.symbol and b.timeframe = '1d'
      and b.time >= w.time and b.time < w.time + interval '146 hours'
) d on d.base_bars = w.base_bars
where w.timeframe = '1w';
comment on view ohlcv_adjusted is
    'market_data on the scale of today: prices x split_factor, volume / split_factor. Dividends stay in.';

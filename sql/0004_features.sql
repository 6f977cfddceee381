-- Features of each bar, and from where on they no longer belong to the bars that are stored.

create table features (
    symbol              text not null,
    timeframe           text not null,
    time                timestamptz not null,
    simple_return       double precision,
    log_return          double precision,
    true_range          double precision,
    atr_14              double precision,
    natr_14             double precision,
    rsi_14              double precision,
    ema_20              double precision,
    sma_20              double precision,
    ema_spread_12_26    double precision,
    macd                double precision,
    macd_signal         double precision,
    adx_14              double precision,
    bb_upper_20         double precision,
    bb_lower_20         double precision,
    slope_14            double precision,
    volatility_20       double precision,
    parkinson_20        double precision,
    garman_klass_20     double precision,
    rogers_satchell_20  double precision,
    yang_zhang_20       double precision,
    vwap_session        double precision,
    dollar_volume       double precision,
    relative_volume_20  double precision,
    trend               smallint,
    gap_in_window       boolean not null,
    computed_at         timestamptz not null default now(),
    primary key (symbol, timeframe, time)
) partition by list (timeframe);
comment on table features is
    'Numbers that describe each bar by itself and the bars before it, on split-adjusted prices. Null is unknown.';
comment on column features.gap_in_window is 'Lost bars lie among those that some column looks back over.';

create table features_1m  partition of features for values in ('1m') partition by range (time);
create table features_5m  partition of features for values in ('5m');
create table features_15m partition of features for values in ('15m');
create table features_30m partition of features for values in ('30m');
create table features_1h  partition of features for values in ('1h');
create table features_4h  partition of features for values in ('4h');
create table features_1d  partition of features for values in ('1d');
create table features_1w  partition of features for values in ('1w');

create sequence features_stale_version;
create table features_stale (
    symbol      text not null,
    timeframe   text not null,
    since       timestamptz not null,
    reason      text not null,
    version     bigint not null default nextval('features_stale_version'),
    changed_at  timestamptz not null default now(),
    primary key (symbol, timeframe)
);
comment on table features_stale is
    'From which bar on the features of a series have to be computed again: bars, gaps or splits have changed since.';
comment on column features_stale.version is
    'Another with every change, so that a computation that was overtaken does not count as the last word.';

-- Bars that were stored before there were features.
insert into features_stale (symbol, timeframe, since, reason)
select c.symbol, c.timeframe, first.time, 'bars without features' from bar_counts c, lateral
    (select o.time from ohlcv o where o.symbol = c.symbol and o.timeframe = c.timeframe order by o.time limit 1) as first;

create view market_data_v2 as
select o.symbol, o.timeframe, o.time, o.open, o.high, o.low, o.close, o.volume, o.vwap, o.transactions, o.base_bars,
       f.simple_return, f.log_return, f.true_range, f.atr_14, f.natr_14, f.rsi_14, f.ema_20, f.sma_20,
       f.ema_spread_12_26, f.macd, f.macd_signal, f.adx_14, f.bb_upper_20, f.bb_lower_20, f.slope_14,
       f.volatility_20, f.parkinson_20, f.garman_klass_20, f.rogers_satchell_20, f.yang_zhang_20, f.vwap_session,
       f.dollar_volume, f.relative_volume_20, f.trend, f.gap_in_window, f.computed_at
from ohlcv o left join features f using (symbol, timeframe, time);

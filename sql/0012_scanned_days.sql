-- Which days of a series were scanned: completeness is claimed for these alone.

alter table completeness_history add column first_scanned date;
alter table completeness_history add column last_scanned date;
comment on column completeness_history.first_scanned is
    'The first local day that was scanned for gaps and expected a bar; null without one, and in rows of older versions.';
comment on column completeness_history.last_scanned is
    'The last local day that was scanned for gaps and expected a bar; null without one, and in rows of older versions.';

create or replace view completeness_matrix as
select distinct on (symbol, timeframe) * from completeness_history order by symbol, timeframe, as_of desc;

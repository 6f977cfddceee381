-- The time zone of a symbol's days, as a column: statements that need it no longer know which asset class has which.

alter table tracked_symbols add column timezone text not null generated always as (
    case asset_class when 'crypto' then 'UTC' else 'America/New_York' end
) stored;
comment on column tracked_symbols.timezone is 'The time zone of the days of the symbol''s bars.';

-- Through which day the splits of a symbol have put its features out of date.

alter table corporate_action_checks add column applied_through date;
comment on column corporate_action_checks.applied_through is
    'Of splits: those executed by this day, in New York, have marked the features of the symbol as out of date.';

update corporate_action_checks
set applied_through = (checked_at at time zone 'America/New_York')::date
where kind = 'splits';

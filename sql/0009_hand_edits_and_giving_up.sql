-- Editing tracked_symbols by hand is supported, and whoever edits it does not write updated_at: by it, a series that was
-- just added is told from one whose bars should be there.

create function touch_tracked_symbol() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end;
$$;

create trigger tracked_symbols_updated_at before update on tracked_symbols for each row
when (
    new.updated_at = old.updated_at
    and (new.asset_class, new.name, new.timeframes, new.active)
        is distinct from (old.asset_class, old.name, old.timeframes, old.active)
)
execute function touch_tracked_symbol();

alter table initial_backfill add column given_up_at timestamptz;
comment on column initial_backfill.given_up_at is
    'When people were told that the history did not come, after the last run that is asked for by itself.';

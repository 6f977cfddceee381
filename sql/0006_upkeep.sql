-- What the platform has asked for by itself, so that nothing is asked for twice for nothing, or for ever.

create table initial_backfill (
    symbol           text not null,
    timeframe        text not null,
    first_day        date not null,
    request          text not null,
    attempts         integer not null check (attempts > 0),
    asked_at         timestamptz not null,
    done_at          timestamptz,
    untracked_since  date,
    primary key (symbol, timeframe)
);
comment on table initial_backfill is
    'The history that a series was given when it was first tracked. Delete the row to have it brought again.';
comment on column initial_backfill.request is 'The tag marketdata/request of the run that was asked for last.';
comment on column initial_backfill.untracked_since is 'Since when the series is not collected any more; null while it is.';

alter table gap_report
    add column repairs integer not null default 0,
    add column repair_asked_at timestamptz;
comment on column gap_report.repairs is
    'How often the sensor gap_repair has asked for a run that asks for the gap again; attempts counts what came of it.';
comment on column gap_report.repair_asked_at is 'When it last did.';
create index gap_report_open on gap_report (symbol, timeframe) where state = 'open';

-- What retention has removed: neither missing nor known to be empty, until somebody brings it back.

create table pruned (
    symbol      text not null,
    timeframe   text not null,
    pruned      tstzmultirange not null,
    updated_at  timestamptz not null default now(),
    primary key (symbol, timeframe)
);
comment on table pruned is
    'The windows of each series whose bars retention removed and nobody brought back: nothing is missing there.';

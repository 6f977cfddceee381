-- Capitals and small letters tell the vendor's securities apart: BACpL is a preferred share, BACPL another symbol. No
-- ticker begins with a small letter.
alter table tracked_symbols drop constraint tracked_symbols_symbol_check;
alter table tracked_symbols add constraint tracked_symbols_symbol_check
    check (symbol ~ '^[A-Z0-9][A-Za-z0-9.-]{0,19}$');
-- `aapl` finds AAPL.
create index tracked_symbols_letters on tracked_symbols (lower(symbol));

-- A name is one line of plain text.
update tracked_symbols
set name = nullif(btrim(left(regexp_replace(name, '[\u0001-\u001f\u007f-\u009f\u2028\u2029]+', ' ', 'g'), 200)), '')
where name ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]' or length(name) > 200 or btrim(name) = '';
alter table tracked_symbols add constraint tracked_symbols_name_check
    check (name !~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]' and length(name) <= 200 and btrim(name) <> '');

alter table tracked_symbols add column preset boolean not null default false;
comment on column tracked_symbols.preset is
    'Came with the package, and was never added nor its timeframes set: left out of the matrix until it is scanned.';
-- The universe of a new store is written in one transaction, so its untouched rows share the earliest moment. 62 is the
-- size of the packaged universe: fewer symbols of one moment were imported by hand.
update tracked_symbols
set preset = true
where active and updated_at = created_at
  and created_at = (select min(created_at) from tracked_symbols)
  and (select count(*) from tracked_symbols where created_at = (select min(created_at) from tracked_symbols)) >= 62;

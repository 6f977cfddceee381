-- A crypto symbol that is no pair has no ticker at the vendor: not one bar of it ever came, and every run that named it
-- stopped.
delete from tracked_symbols where asset_class = 'crypto' and symbol !~ '^[^-]+-[^-]+$';
alter table tracked_symbols add constraint tracked_symbols_crypto_pair
    check (asset_class <> 'crypto' or symbol ~ '^[^-]+-[^-]+$');

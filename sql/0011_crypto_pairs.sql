-- A crypto symbol that is no pair has no ticker at the vendor: one such row would stop every run that names it.
-- Rows from before are left as they are, and refused when they are next written.
alter table tracked_symbols add constraint tracked_symbols_crypto_pair
    check (asset_class <> 'crypto' or symbol ~ '^[^-]+-[^-]+$') not valid;

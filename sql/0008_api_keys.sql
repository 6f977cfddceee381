-- Who may use the HTTP API from elsewhere than this machine.

create table api_keys (
    name        text primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$'),
    scope       text not null check (scope in ('read', 'admin')),
    key_hash    bytea not null unique check (octet_length(key_hash) = 32),
    created_at  timestamptz not null default now(),
    revoked_at  timestamptz
);
comment on table api_keys is
    'Keys of the HTTP API. Only the SHA-256 of a key is kept: 256 random bits cannot be guessed, so nothing slower is needed.';

-- One request may answer for every symbol of a market: its row names the market, and each symbol keeps a row of its own
-- that says what was asked of it and what came.

alter table fetch_log add column shared boolean not null default false;
comment on column fetch_log.shared is
    'The answer came with requests for whole days of a market, which have rows of their own whose symbol is the market''s name: this row cost no request.';

-- jsonb rounds what the vendor wrote to what it means ("513.360", 1e400, a key given twice); json keeps every byte.
-- Rows from before stay as they were read then, under the names of our columns: their first text is gone. So a row that
-- is fetched again within the correction window and quarantined again differs from them, and is kept a second time.

alter table ohlcv_quarantine alter column vendor_row type json using vendor_row::text::json;
comment on column ohlcv_quarantine.vendor_row is
    'The row in the bytes in which the vendor sent it (t, o, h, l, c, v, vw, n).';

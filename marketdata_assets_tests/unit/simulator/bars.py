"""Reading pages in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from .client import Vendor

Row = dict[str, Any]


def page(client: Vendor, path: str, **params: object) -> dict[str, Any]:
    """One page of `/v2/aggs/ticker/` + path, raw and ascending."""
    query = {"adjusted": "false", "sort": "asc", "limit": "50000", **{k: str(v) for k, v in params.items()}}
    answer = client.get(f"/v2/aggs/ticker/{path}", params=query)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def bars(client: Vendor, path: str, **params: object) -> list[Row]:
    """All bars of all pages; `adjusted` is sent again with every page, as the vendor's next_url drops it."""
    current = page(client, path, **params)
    rows: list[Row] = list(current.get("results", []))
    while "next_url" in current:
        url = urlsplit(current["next_url"])
        answer = client.get(f"{url.path}?{url.query}&adjusted={params.get('adjusted', 'false')}")
        assert answer.status_code == 200, answer.text
        current = answer.json()
        rows += current.get("results", [])
    return rows


def rolled(rows: list[Row], step_ms: int) -> list[Row]:
    """Open, high, low, close, volume and trades of `rows` in buckets of `step_ms`: an independent reading."""
    buckets: dict[int, list[Row]] = {}
    for row in rows:
        buckets.setdefault(row["t"] // step_ms * step_ms, []).append(row)
    return [
        {
            "t": start,
            "o": group[0]["o"],
            "h": max(row["h"] for row in group),
            "l": min(row["l"] for row in group),
            "c": group[-1]["c"],
            "v": round(sum(row["v"] for row in group), 5),
            "n": sum(row["n"] for row in group),
        }
        for start, group in buckets.items()
    ]

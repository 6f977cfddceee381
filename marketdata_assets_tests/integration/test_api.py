"""The HTTP API over a real store: what it answers, to whom, and how it refuses."""

from __future__ import annotations

import gzip
import re
import threading
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import zstandard
from fastapi.routing import APIRoute
from polars.testing import assert_frame_equal
from starlette.testclient import TestClient

from marketdata_assets import bars, completeness, features, gaps, queries
from marketdata_assets.api import cursors
from marketdata_assets.api.app import _ROUTERS, create_app
from marketdata_assets.api.formats import ARROW, CSV, JSON, MEDIA_TYPES, PARQUET
from marketdata_assets.api.limits import RateLimiter
from marketdata_assets.api.service import ServiceOptions
from marketdata_assets.domain.actions import SCHEMAS, ActionKind
from marketdata_assets.domain.bars import BAR_SCHEMA
from marketdata_assets.domain.calendar import microseconds
from marketdata_assets.domain.features.columns import FEATURES_SCHEMA
from marketdata_assets.domain.series import AssetClass, Series
from marketdata_assets.domain.timeframe import Timeframe
from marketdata_assets.domain.windows import Window
from marketdata_assets.storage.actions import store_actions
from marketdata_assets.storage.bars import BarBatch, write_batch
from marketdata_assets.storage.completeness import MATRIX_SCHEMA
from marketdata_assets.storage.features import FeatureBatch, write_features
from marketdata_assets.storage.gaps import LISTED_SCHEMA
from marketdata_assets.storage.keys import Scope, create_key
from marketdata_assets.storage.symbols import TrackedSymbol, add_symbols, find_symbol
from marketdata_assets_tests.decoding import decoded
from marketdata_assets_tests.integration.frames import OPEN, bar, frame, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from httpx import Response

    from marketdata_assets.storage.connection import Database

MINUTE = timedelta(minutes=1)
DAY = "/api/v1/historical/AAPL?timeframe=1m&start=2024-01-02&end=2024-01-02"


@pytest.fixture(autouse=True)
def _store(database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    add_symbols(
        database,
        [
            TrackedSymbol("AAPL", AssetClass.STOCK, timeframes=(Timeframe.M1, Timeframe.D1)),
            TrackedSymbol("BTC-USD", AssetClass.CRYPTO, timeframes=(Timeframe.M1,)),
        ],
    )
    rows = (
        bar(
            "AAPL:1m",
            OPEN + place * MINUTE,
            100 + place / 3,
            volume=1000.0 + place,
            vwap=None if place == 7 else 1 / 3,
        )
        for place in range(40)
    )
    write_batch(database, BarBatch(frame(*rows)))
    split = {"symbol": "AAPL", "execution_date": date(2024, 2, 1), "split_from": 1.0, "split_to": 7.0}
    listed = pl.DataFrame([split], schema=SCHEMAS[ActionKind.SPLITS])
    store_actions(database, ActionKind.SPLITS, listed, symbols=["AAPL"], endpoint="/", today=date(2024, 3, 1))
    yield
    queries._close_all()


@contextmanager
def serving(database_url: str, *, address: str = "127.0.0.1", **options: Any) -> Iterator[TestClient]:  # noqa: ANN401 - options of any type
    app = create_app(ServiceOptions(database_url, **{"open_reads": True, "threads": 2, **options}))
    with TestClient(
        app, base_url="http://127.0.0.1:8000", client=(address, 50_000), raise_server_exceptions=False
    ) as client:
        client.headers["accept-encoding"] = "identity"
        yield client


@pytest.fixture
def api(database_url: str) -> Iterator[TestClient]:
    with serving(database_url) as client:
        yield client


def accepting(media_type: str) -> dict[str, str]:
    return {"accept": media_type}


def refused(answer: Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of ``answer``, which must be one and must give nothing away."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code)
    assert document["detail"]
    for secret in ("Traceback", "psycopg", "adbc", "select ", "postgresql://", ".py"):
        assert secret not in answer.text
    return document


def pages(api: TestClient, path: str, media_type: str = ARROW) -> Iterator[bytes]:
    """The bodies of all pages from ``path`` on, as ``Link`` leads from one to the next."""
    while True:
        answer = api.get(path, headers=accepting(media_type))
        assert answer.status_code == 200, answer.text
        yield answer.content
        following = answer.links.get("next")
        if following is None:
            return
        path = following["url"]


@pytest.mark.parametrize("more", ["", "&adjusted=false", "&as_of=2024-01-31"])
def test_answers_equal_bars_to_the_bit(api: TestClient, more: str) -> None:
    wanted = bars(
        "AAPL",
        "1m",
        "2024-01-02",
        "2024-01-02",
        adjusted="adjusted=false" not in more,
        as_of=date(2024, 1, 31) if "as_of" in more else None,
    )
    for media_type in MEDIA_TYPES:
        answer = api.get(DAY + more, headers=accepting(media_type))
        assert answer.headers["content-type"].partition(";")[0] == media_type
        assert_frame_equal(decoded(answer.content, media_type, BAR_SCHEMA), wanted, check_exact=True)
    scaled = wanted["open"][0] != 100.0
    assert scaled is (more == "")


def test_json_says_what_the_rows_are(api: TestClient) -> None:
    document = api.get(DAY + "&as_of=2024-02-02&limit=1").json()
    assert document.pop("next_cursor")
    (row,) = document.pop("data")
    assert document == {"symbol": "AAPL", "timeframe": "1m", "adjusted": True, "as_of": "2024-02-02"}
    assert row["time"] == "2024-01-02T14:30:00Z"
    assert api.get("/api/v1/historical/aapl?timeframe=1m&adjusted=false").json()["adjusted"] is False


def test_edges_are_those_of_bars(api: TestClient) -> None:
    path = "/api/v1/historical/AAPL?timeframe=1m&start=2024-01-02T14:31:00Z&end=2024-01-02T09:33:00-05:00"
    rows = api.get(path).json()["data"]
    assert [row["time"] for row in rows] == ["2024-01-02T14:31:00Z", "2024-01-02T14:32:00Z"]


def test_candles_are_the_latest_bars_in_order(api: TestClient) -> None:
    answer = api.get("/api/v1/assets/AAPL/candles?timeframe=1m&limit=3", headers=accepting(ARROW))
    assert_frame_equal(
        decoded(answer.content, ARROW, BAR_SCHEMA), bars("AAPL", "1m", "2024-01-02", "2024-01-02").tail(3)
    )


def test_pages_add_up_to_the_range(api: TestClient) -> None:
    for limit in (1, 7, 39, 40, 41):
        read = [decoded(body, ARROW, BAR_SCHEMA) for body in pages(api, f"{DAY}&limit={limit}")]
        assert [one.height for one in read[:-1]] == [limit] * (len(read) - 1)
        assert_frame_equal(pl.concat(read), bars("AAPL", "1m", "2024-01-02", "2024-01-02"))


def test_paging_under_concurrent_writes_neither_skips_nor_repeats(
    api: TestClient, database: Database
) -> None:
    """Between any two pages bars come in behind, on and before them, and are changed; those that were there are read once."""
    midnight = datetime(2024, 1, 2, tzinfo=UTC)
    there = run_of("BTC-USD:1m", 60, start=midnight, step=2 * MINUTE)
    write_batch(database, BarBatch(there))
    read: list[datetime] = []
    path = "/api/v1/historical/BTC-USD?timeframe=1m&start=2024-01-02&end=2024-01-02&limit=9"
    for place, body in enumerate(pages(api, path)):
        page = decoded(body, ARROW, BAR_SCHEMA)["time"].to_list()
        read += page
        around = (page[0] - MINUTE, page[4] + MINUTE, page[-1] + MINUTE, page[-1] + 5 * MINUTE)
        changed = (page[0], page[-1], page[-1] + 2 * MINUTE)
        if place < 6:
            rows = [
                bar("BTC-USD:1m", time, 20.0 + place)
                for time in sorted({*around, *changed})
                if time >= midnight
            ]
            write_batch(database, BarBatch(frame(*rows)))
    assert read == sorted(set(read))
    assert set(there["time"].to_list()) <= set(read)
    assert len(read) > there.height


def test_later_pages_keep_the_scale_and_the_end_of_the_first(api: TestClient, database: Database) -> None:
    first = api.get(
        "/api/v1/historical/AAPL?timeframe=1m&start=2024-01-02&end=2024-01-02&as_of=2024-01-31&limit=39"
    )
    second = api.get(first.links["next"]["url"])
    assert second.json()["as_of"] == "2024-01-31"
    assert second.json()["data"][0]["open"] == 100 + 39 / 3


def test_a_split_between_two_pages_ends_the_answer(api: TestClient, database: Database) -> None:
    def listed(*days: date) -> None:
        rows = [
            {"symbol": "AAPL", "execution_date": day, "split_from": 1.0, "split_to": 7.0}
            for day in (date(2024, 2, 1), *days)
        ]
        frame = pl.DataFrame(rows, schema=SCHEMAS[ActionKind.SPLITS])
        store_actions(
            database, ActionKind.SPLITS, frame, symbols=["AAPL"], endpoint="/", today=date(2024, 3, 1)
        )

    def following(more: str) -> str:
        link: str = api.get(f"{DAY}&limit=9{more}").links["next"]["url"]
        return link

    now, earlier, traded = following(""), following("&as_of=2024-02-15"), following("&adjusted=false")
    listed(date(2999, 1, 4))
    assert api.get(now).status_code == 200, "a split that waits for its day changes nothing"
    listed(date(2024, 2, 20))
    refused(api.get(now), 409, "scale-changed")
    for path in (earlier, traded, following("")):
        assert api.get(path).status_code == 200


def test_a_cursor_belongs_to_its_question(api: TestClient) -> None:
    cursor = api.get(DAY + "&limit=2").json()["next_cursor"]
    assert api.get(f"{DAY}&limit=5&cursor={cursor}").status_code == 200
    refused(api.get(f"{DAY}&adjusted=false&cursor={cursor}"), 422, "invalid-cursor")
    refused(api.get(f"{DAY.replace('AAPL', 'BTC-USD')}&cursor={cursor}"), 422, "invalid-cursor")
    refused(api.get(f"{DAY}&cursor=nonsense"), 422, "invalid-cursor")


@pytest.mark.parametrize("kind", ["historical", "features"])
def test_a_cursor_leads_nowhere_outside_of_its_range(api: TestClient, database: Database, kind: str) -> None:
    frame_ = pl.DataFrame(
        {"symbol": "AAPL", "timeframe": "1m", "time": OPEN},
        schema_overrides={"time": FEATURES_SCHEMA["time"]},
    )
    write_features(database, FeatureBatch(frame_.match_to_schema(FEATURES_SCHEMA, missing_columns="insert")))
    requested: dict[str, object] = {
        "of": "AAPL", "timeframe": "1m", "start": "2024-01-02", "end": "2024-01-02", "regular_hours": False
    }  # fmt: skip
    if kind == "historical":
        requested |= {"adjusted": True, "as_of": None}
    path = f"/api/v1/{kind}/AAPL?timeframe=1m&start=2024-01-02&end=2024-01-02&cursor="
    question = cursors.query_fingerprint(kind, requested)
    splits = None
    if kind == "historical":
        ours = cursors.decode(api.get(DAY + "&limit=1").json()["next_cursor"], cursors.SeriesCursor, question)
        splits = ours.splits
    first, end = datetime(2024, 1, 2, 5, tzinfo=UTC), datetime(2024, 1, 3, 5, tzinfo=UTC)
    scale = date(2024, 3, 1) if kind == "historical" else None
    for last, until, is_ours in (
        (first, end, True),
        (first - MINUTE, end, False),
        (datetime(1990, 1, 1, tzinfo=UTC), end, False),
        (first, end + MINUTE, False),
    ):
        text = cursors.encode(
            cursors.SeriesCursor(question, microseconds(last), microseconds(until), scale, splits)
        )
        if is_ours:
            assert api.get(path + text).status_code == 200
        else:
            refused(api.get(path + text), 422, "invalid-cursor")


def test_head_answers_wherever_get_does(api: TestClient) -> None:
    paths = {
        route.path.replace("{symbol}", "AAPL").replace("{name}", "swagger-ui.css")
        for one in _ROUTERS
        for route in one.routes
        if isinstance(route, APIRoute) and "GET" in (route.methods or ())
    }
    assert {"/", "/docs", "/health", "/metrics", "/openapi.json", "/api/v1/gaps"} <= paths
    for path in (*sorted(paths), DAY, "/nothing", "/api/v1/gaps?wrong=1"):
        if "/historical/" in path or "/features/" in path:
            path += "&limit=2" if "?" in path else "?timeframe=1m&start=2024-01-02&end=2024-01-02"  # noqa: PLW2901
        got, head = (api.request(method, path, follow_redirects=False) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (got.status_code, b""), path
        if path != "/metrics":
            assert dict(head.headers) == dict(got.headers), path
    assert "HEAD" in api.put("/api/v1/gaps").headers["allow"]


def test_the_page_of_the_api_needs_nothing_from_elsewhere(api: TestClient) -> None:
    root = api.get("/", follow_redirects=False)
    assert (root.status_code, root.headers["location"]) == (307, "docs")
    page = api.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(named) == 4
    for path in named:
        assert not path.startswith(("http", "//"))
        assert api.get(f"/{path}").status_code == 200
    assert api.get("/docs/..%2fdocs.html").status_code == 404
    assert api.get("/docs/README.md").status_code == 404


def test_refusals_are_logged_without_what_is_secret(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(database_url, address="203.0.113.9") as api:
        for headers in ({}, {"x-api-key": "s3cret-key"}, {"authorization": "Bearer s3cret-key"}):
            assert api.get(DAY + "&note=s3cret-key", headers=headers).status_code == 401
        assert api.get(DAY, headers=[("x-api-key", "s3cret-key"), ("x-api-key", "other")]).status_code == 400
        assert api.get("/health", headers=[("host", "a"), ("host", "b")]).status_code == 400
        assert api.get("/nothing").status_code == 404
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("refusals")]
    kinds = ["key-needed", "unknown-key", "unknown-key", "several-keys", "not-one-host"]
    assert [line.partition(": ")[2].partition(",")[0] for line in lines] == kinds
    assert all("203.0.113.9" in line for line in lines)
    assert "s3cret" not in caplog.text


def test_two_hosts_are_not_this_machine(api: TestClient) -> None:
    for hosts in (("evil.example", "127.0.0.1"), ("127.0.0.1", "evil.example"), ("127.0.0.1", "127.0.0.1")):
        refused(api.get(DAY, headers=[("host", host) for host in hosts]), 400, "not-one-host")


def test_answers_that_are_not_read_bound_what_else_is_made(api: TestClient) -> None:
    service = api.app.state.service  # type: ignore[attr-defined]
    service.unsent.add("127.0.0.1", 64 * 1024 * 1024)
    refused(api.get(DAY), 429, "answers-unread")
    service.unsent.add("others", 256 * 1024 * 1024)
    service.unsent.release("127.0.0.1", 1)
    refused(api.get(DAY), 503, "busy")
    service.unsent.release("others", 256 * 1024 * 1024)
    assert api.get(DAY).status_code == 200
    # An answer that was taken counts no more.
    assert service.unsent._bytes == {"127.0.0.1": 64 * 1024 * 1024 - 1}


def test_an_answer_is_good_until_it_is_revised(api: TestClient, database: Database) -> None:
    first = api.get(DAY)
    assert first.headers["cache-control"] == "private, max-age=300, must-revalidate"
    assert first.headers["vary"] == "Accept, Accept-Encoding"
    known = {"if-none-match": f'"other", W/{first.headers["etag"]}'}
    again = api.get(DAY, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert api.get(DAY, headers={**known, **accepting(CSV)}).status_code == 200

    write_batch(database, BarBatch(frame(bar("AAPL:1m", OPEN, 100.25))))
    revised = api.get(DAY, headers=known)
    assert revised.status_code == 200
    assert revised.headers["etag"] != first.headers["etag"]


def test_what_may_still_change_is_asked_for_again_soon(api: TestClient) -> None:
    for timeframe, seconds in (("1m", 5), ("1d", 300)):
        answer = api.get(f"/api/v1/historical/AAPL?timeframe={timeframe}")
        assert answer.headers["cache-control"] == f"private, max-age={seconds}, must-revalidate"


def test_answers_are_compressed_as_asked(api: TestClient) -> None:
    plain = api.get(DAY)
    with api.stream("GET", DAY, headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
    with api.stream("GET", DAY, headers={"accept-encoding": "gzip;q=0.5, zstd"}) as answer:
        assert answer.headers["content-encoding"] == "zstd"
        assert zstandard.ZstdDecompressor().decompress(b"".join(answer.iter_raw())) == plain.content
        assert answer.headers["etag"] != plain.headers["etag"]


def test_features_gaps_and_completeness_equal_those_of_python(api: TestClient, database: Database) -> None:
    series = Series("AAPL", Timeframe.M1)
    rows = pl.DataFrame(
        [
            {
                "symbol": "AAPL",
                "timeframe": "1m",
                "time": OPEN + place * MINUTE,
                "log_return": 1 / (3 + place),
                "gap_in_window": False,
            }
            for place in range(9)
        ],
        schema=FEATURES_SCHEMA,
    )
    write_features(database, FeatureBatch(rows, {series: Window(OPEN, OPEN + timedelta(hours=1))}))
    database.transaction(
        lambda connection: connection.execute(
            "insert into gap_report (symbol, timeframe, day, gap_start, gap_end, missing_bars, state, attempts, reason)"
            " select s, '1m', '2024-01-02', t, t + interval '5 minutes', 5, state, 1, 'because'"
            " from unnest(array['BTC-USD', 'AAPL']) s, unnest(array['open', 'filled', 'unfilled']) with ordinality"
            " as states(state, n), lateral (select timestamptz '2024-01-02 15:00Z' + n * interval '1 hour') as at(t)"
        )
    )
    path = "/api/v1/features/AAPL?timeframe=1m&start=2024-01-02&end=2024-01-02&limit=4"
    read = pl.concat([decoded(body, PARQUET, FEATURES_SCHEMA) for body in pages(api, path, PARQUET)])
    assert_frame_equal(read, features("AAPL", "1m", "2024-01-02", "2024-01-02"), check_exact=True)
    assert read["log_return"].to_list() == rows["log_return"].to_list()

    for query, wanted in (
        ("", gaps()),
        ("&state=filled&state=open&symbol=AAPL", gaps(["AAPL"], states=["filled", "open"])),
        (
            "&start=2024-01-02T16:05:00Z&end=2024-01-02T17:00:00Z",
            gaps(start="2024-01-02T16:05:00Z", end="2024-01-02T17:00:00Z"),
        ),
        ("&timeframe=1d", gaps(timeframes=["1d"])),
    ):
        path = f"/api/v1/gaps?limit=1{query}"
        found = pl.concat([decoded(body, JSON, LISTED_SCHEMA) for body in pages(api, path, JSON)])
        assert_frame_equal(found, wanted)
    assert gaps().height == 4
    assert gaps(["AAPL"], states=["filled", "open"])["state"].to_list() == ["open", "filled"]
    assert gaps(start="2024-01-02T16:05:00Z", end="2024-01-02T17:00:00Z").is_empty()

    answer = api.get("/api/v1/completeness?symbol=AAPL", headers=accepting(CSV))
    assert_frame_equal(decoded(answer.content, CSV, MATRIX_SCHEMA), completeness(["AAPL"]))
    assert completeness(["AAPL"], ["1d"]).select("symbol", "timeframe").rows() == [("AAPL", "1d")]


NONSENSE = [
    ("/api/v1/historical/AAPL", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=7m", 422, "invalid-argument"),
    ("/api/v1/historical/NOPE?timeframe=1m", 404, "unknown-series"),
    ("/api/v1/historical/AAPL?timeframe=1h", 404, "unknown-series"),
    ("/api/v1/features/NOPE?timeframe=1m", 404, "unknown-series"),
    ("/api/v1/gaps?symbol=NOPE", 404, "unknown-series"),
    ("/api/v1/completeness?symbol=NOPE", 404, "unknown-series"),
    ("/api/v1/historical/AAPL'%20or%20'1'='1?timeframe=1m", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m'%3Bdrop%20table%20ohlcv%3B--", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2024-01-01'--", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL%00?timeframe=1m", 422, "invalid-argument"),
    ("/api/v1/gaps?symbol=A'%20union%20select%201--", 422, "invalid-argument"),
    ("/api/v1/gaps?state=open'--", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2024-02-30", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=yesterday", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2024-01-02T10:00:00", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2024-01-03&end=2024-01-02", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&end=0001-01-01", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=9999-12-31&end=9999-12-31", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&end=9999-12-31T23:59:59-14:00", 422, "invalid-argument"),
    (
        "/api/v1/historical/AAPL?timeframe=1m&start=0001-01-01T00:00:00%2B14:00&end=0001-01-02",
        422,
        "invalid-argument",
    ),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2010-01-01&end=2024-01-02", 422, "range-too-long"),
    ("/api/v1/historical/AAPL?timeframe=1d&start=1901-01-01&end=2024-01-02", 422, "range-too-long"),
    ("/api/v1/historical/AAPL?timeframe=1m&limit=0", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&limit=100001", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&limit=99999999999999999999999", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&as_of=2024", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&as_of=2024-01-02&adjusted=false", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&adjusted=maybe", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&timeframes=1d", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&timeframe=1d", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&limit=5&limit=6", 422, "invalid-argument"),
    ("/api/v1/gaps?limit=5&limit=6&symbol=AAPL&symbol=SPY", 422, "invalid-argument"),
    ("/api/v1/historical/AAPL?timeframe=1m&start=2024-01-02&end=2999-01-01", 422, "range-too-long"),
    ("/api/v1/nothing", 404, "no-such-path"),
    ("/api/v1/gaps/", 404, "no-such-path"),
]


def test_what_makes_no_sense_is_refused_with_a_problem_document(api: TestClient) -> None:
    for path, status, code in NONSENSE:
        refused(api.get(path), status, code)


def test_a_moment_without_an_offset_is_told_how_to_be_written(api: TestClient) -> None:
    answer = api.get("/api/v1/historical/AAPL?timeframe=1d&start=2026-11-20T10:00:00")
    refused(answer, 422, "invalid-argument")
    assert answer.json()["detail"].startswith("query.start: write YYYY-MM-DD, or")
    assert len(answer.json()["errors"]) == 1


def test_methods_and_formats_that_are_not_there(api: TestClient) -> None:
    wrong = api.patch("/api/v1/symbols")
    refused(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "GET, HEAD, POST"
    refused(api.get(DAY, headers=accepting("image/png")), 406, "not-acceptable")


def test_splits_that_nobody_asked_for_are_no_adjustment(api: TestClient, database: Database) -> None:
    add_symbols(database, [TrackedSymbol("SPY", AssetClass.ETF, timeframes=(Timeframe.M1,))])
    refused(api.get(DAY.replace("AAPL", "SPY")), 409, "splits-unknown")
    assert api.get(DAY.replace("AAPL", "SPY") + "&adjusted=false").status_code == 200


def test_reads_from_elsewhere_and_all_changes_need_a_key(database_url: str, database: Database) -> None:
    reader, admin = create_key(database, "reader", Scope.READ), create_key(database, "admin", Scope.ADMIN)
    with serving(database_url, address="203.0.113.9", read_keys=("a-key-of-the-environment",)) as api:
        assert api.get("/health").json() == {"status": "ok"}
        for path in (
            *(DAY, "/api/v1/gaps", "/api/v1/symbols", "/api/v1/admin/symbols/AAPL"),
            *("/metrics", "/docs", "/openapi.json"),
        ):
            refused(api.get(path), 401, "key-needed")
            refused(api.get(path, headers={"x-api-key": "wrong"}), 401, "unknown-key")
            refused(api.get(path, headers={"x-api-key": b"\xff"}), 401, "unknown-key")
            for key in (reader, admin, "a-key-of-the-environment"):
                assert api.get(path, headers={"x-api-key": key}).status_code == 200
                assert api.get(path, headers={"authorization": f"Bearer {key}"}).status_code == 200
        body = {"timeframes": ["1h"]}
        refused(api.put("/api/v1/admin/symbols/AAPL/timeframes", json=body), 401, "key-needed")
        given = {"x-api-key": reader}
        refused(
            api.put("/api/v1/admin/symbols/AAPL/timeframes", json=body, headers=given),
            403,
            "admin-key-needed",
        )
        refused(api.delete("/api/v1/admin/symbols/AAPL", headers=given), 403, "admin-key-needed")
    with serving(database_url) as api:
        refused(api.post("/api/v1/symbols", json={"symbol": "X"}), 401, "key-needed")
        # Before the body is looked at.
        refused(api.post("/api/v1/symbols", content=b"{"), 401, "key-needed")
    with serving(database_url, open_reads=False) as api:
        refused(api.get(DAY), 401, "key-needed")


def test_keys_are_kept_as_hashes(database: Database) -> None:
    key = create_key(database, "reader", Scope.READ)
    stored = database.read_frame("select t::text as row from api_keys t")["row"][0]
    assert key not in stored
    assert key.removeprefix("mda_") not in stored


@pytest.fixture
def admin(database_url: str, database: Database) -> Iterator[TestClient]:
    key = create_key(database, "admin", Scope.ADMIN)
    with serving(database_url) as client:
        client.headers["x-api-key"] = key
        yield client


def test_admins_change_what_is_collected(admin: TestClient, database: Database) -> None:
    answer = admin.put("/api/v1/admin/symbols/aapl/timeframes", json={"timeframes": ["1d", "1m", "1d"]})
    assert (answer.status_code, answer.json()["timeframes"]) == (200, ["1m", "1d"])
    assert find_symbol(database, "AAPL").timeframes == (Timeframe.M1, Timeframe.D1)

    assert admin.delete("/api/v1/admin/symbols/AAPL").json()["active"] is False
    assert [one["symbol"] for one in admin.get("/api/v1/symbols").json()["data"]] == ["BTC-USD"]
    assert len(admin.get("/api/v1/symbols?active=false").json()["data"]) == 2
    assert admin.get(DAY).json()["data"], "bars of a deactivated symbol stay"
    details = admin.get("/api/v1/admin/symbols/AAPL").json()
    assert details["stored"] == [{"timeframe": "1m", "bars": 40}]

    back = admin.post("/api/v1/symbols", json={"symbol": "AAPL"})
    assert (back.status_code, back.json()["active"], back.json()["timeframes"]) == (200, True, ["1m", "1d"])
    new = admin.post("/api/v1/symbols", json={"symbol": "eth-usd", "timeframes": ["1w"], "name": "Ether"})
    assert (new.status_code, new.json()["asset_class"]) == (201, "crypto")


def test_changes_that_make_no_sense_are_refused(admin: TestClient, database: Database) -> None:
    path = "/api/v1/admin/symbols/AAPL/timeframes"
    bodies: tuple[dict[str, object], ...] = (
        {"timeframes": []},
        {"timeframes": ["2m"]},
        {"timeframes": "1m"},
        {},
        {"timeframes": ["1m"], "x": 1},
    )
    for body in bodies:
        refused(admin.put(path, json=body), 422, "invalid-argument")
    refused(
        admin.put(path, content=b"{", headers={"content-type": "application/json"}), 400, "unreadable-body"
    )
    plain = admin.put(path, content=b'{"timeframes": ["1m"]}', headers={"content-type": "text/plain"})
    refused(plain, 422, "invalid-argument")
    assert "send one, with Content-Type: application/json" in plain.json()["detail"]
    refused(admin.put(path.replace("AAPL", "NOPE"), json={"timeframes": ["1m"]}), 404, "unknown-series")
    refused(admin.delete("/api/v1/admin/symbols/NOPE"), 404, "unknown-series")
    refused(
        admin.post("/api/v1/symbols", json={"symbol": "ETH", "asset_class": "crypto"}),
        422,
        "invalid-argument",
    )
    refused(
        admin.post("/api/v1/symbols", json={"symbol": "AAPL", "asset_class": "index"}),
        409,
        "another-instrument",
    )
    refused(admin.put(path, content=b" " * 70_000), 413, "body-too-large")
    assert find_symbol(database, "AAPL").timeframes == (Timeframe.M1, Timeframe.D1)


def test_a_symbol_that_is_known_keeps_what_nobody_mentions(admin: TestClient, database: Database) -> None:
    admin.put("/api/v1/admin/symbols/BTC-USD/timeframes", json={"timeframes": ["5m"]})
    again = admin.post("/api/v1/symbols", json={"symbol": "BTC-USD", "name": "Bitcoin"})
    assert (again.status_code, again.json()["timeframes"], again.json()["asset_class"]) == (
        200,
        ["5m"],
        "crypto",
    )
    assert find_symbol(database, "BTC-USD").name == "Bitcoin"


def test_a_symbol_that_differs_in_capitals_is_taken_when_it_is_confirmed(admin: TestClient) -> None:
    assert admin.post("/api/v1/symbols", json={"symbol": "BACpL"}).status_code == 201
    refused(admin.post("/api/v1/symbols", json={"symbol": "BACPL"}), 422, "doubtful-symbol")
    assert admin.post("/api/v1/symbols", json={"symbol": "BACPL", "confirmed": True}).status_code == 201


def test_symbols_are_kept_as_they_are_written(admin: TestClient, database: Database) -> None:
    for symbol, confirmed in (("BACpL", False), ("BACPL", True)):
        new = admin.post("/api/v1/symbols", json={"symbol": symbol, "confirmed": confirmed})
        assert (new.status_code, new.json()["symbol"], new.json()["vendor_ticker"]) == (201, symbol, symbol)
        found = admin.get(f"/api/v1/admin/symbols/{symbol}")
        assert (found.status_code, found.json()["symbol"]) == (200, symbol)
    assert admin.get("/api/v1/admin/symbols/aapl").json()["symbol"] == "AAPL"
    assert admin.post("/api/v1/symbols", json={"symbol": "aapl"}).json()["symbol"] == "AAPL"
    refused(admin.get("/api/v1/admin/symbols/bacpl"), 404, "unknown-series")
    assert admin.delete("/api/v1/admin/symbols/BACpL").json()["active"] is False
    assert find_symbol(database, "BACPL").active


@pytest.mark.parametrize(
    "wanted",
    [{"symbol": "BRK-B"}, {"symbol": "BTCUSD", "asset_class": "stock"}, {"symbol": "VIX"}, {"symbol": "123"}],
)
def test_a_doubtful_symbol_is_taken_when_it_is_confirmed(admin: TestClient, wanted: dict[str, str]) -> None:
    answer = admin.post("/api/v1/symbols", json=wanted)
    refused(answer, 422, "doubtful-symbol")
    assert answer.json()["detail"].endswith('Send "confirmed": true to track it all the same')
    assert admin.post("/api/v1/symbols", json={**wanted, "confirmed": True}).status_code == 201


def test_one_client_cannot_ask_without_end(database_url: str) -> None:
    with serving(database_url, requests_per_second=0.1) as api:
        assert api.get(DAY).status_code == 200
        answer = api.get(DAY)
        refused(answer, 429, "too-many-requests")
        counted = api.app.state.service.metrics.page().decode()  # type: ignore[attr-defined]
        assert 'route="/api/v1/historical/{symbol}",status="429"} 1.0' in counted
        assert int(answer.headers["retry-after"]) >= 1
        assert api.get("/health").status_code == 200


def test_a_page_is_paid_for_before_it_is_read(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    debts, settled = [], []

    def reserve(_: RateLimiter, client: str, rows: int) -> float:
        debts.append((client, rows))
        return 0.0

    monkeypatch.setattr(RateLimiter, "reserve", reserve)
    monkeypatch.setattr(RateLimiter, "settle", lambda _, *paid: settled.append(paid))
    with serving(database_url, requests_per_second=1) as api:
        etag = api.get(f"{DAY}&limit=100000").headers["etag"]
        assert api.get(f"{DAY}&limit=100000", headers={"if-none-match": etag}).status_code == 304
    assert debts == [("127.0.0.1", 100_000)] * 2
    assert settled == [("127.0.0.1", 100_000, 40)] * 2
    with serving(database_url, requests_per_second=1) as api:
        monkeypatch.setattr(RateLimiter, "reserve", lambda *_: 7.2)
        answer = api.get(DAY)
        refused(answer, 429, "too-many-requests")
        assert answer.headers["retry-after"] == "8"
    assert settled[-1] == ("127.0.0.1", 0, 0)


def test_a_database_that_is_slow_or_away_is_told_from_an_error(database_url: str, database: Database) -> None:
    with serving(database_url, statement_timeout=timedelta(milliseconds=300)) as api:
        blocked, done = threading.Event(), threading.Event()

        def block() -> None:
            def lock(connection: Any) -> None:  # noqa: ANN401 - psycopg's connection
                connection.execute("lock table ohlcv in access exclusive mode")
                blocked.set()
                done.wait(30)

            database.transaction(lock)

        holder = threading.Thread(target=block)
        holder.start()
        try:
            assert blocked.wait(30)
            answer = api.get(DAY)
        finally:
            done.set()
            holder.join()
        refused(answer, 503, "too-slow")
        assert answer.headers["retry-after"]
        assert api.get(DAY).status_code == 200
    with serving("postgresql://nobody:s3cret-word@127.0.0.1:1/nothing") as api:
        for path in (DAY, "/health"):
            answer = api.get(path)
            refused(answer, 503, "database-away")
            assert "s3cret-word" not in answer.text
            assert "nobody" not in answer.text


def test_what_nobody_thought_of_is_an_error_without_a_trace(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        message = "a secret of the house"
        raise RuntimeError(message)

    monkeypatch.setattr("marketdata_assets.api.quality.read_completeness", fail)
    answer = api.get("/api/v1/completeness")
    refused(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert "a secret of the house" in caplog.text


def test_metrics_count_requests_rows_and_seconds(api: TestClient) -> None:
    etag = api.get(DAY).headers["etag"]
    api.get(DAY, headers={"if-none-match": etag})
    api.get("/api/v1/historical/NOPE?timeframe=1m")
    page = api.get("/metrics").text
    route = 'route="/api/v1/historical/{symbol}"'
    assert f'marketdata_api_requests_total{{method="GET",{route},status="200"}} 1.0' in page
    assert f'marketdata_api_requests_total{{method="GET",{route},status="404"}} 1.0' in page
    assert f"marketdata_api_rows_total{{{route}}} 80.0" in page
    assert f"marketdata_api_request_seconds_count{{{route}}} 3.0" in page


def test_what_a_page_lacks_is_in_a_header_of_every_format(api: TestClient) -> None:
    empty = "/api/v1/historical/AAPL?timeframe=1m&start=2024-01-03&end=2024-01-04"
    said = (
        'never-fetched;first="2024-01-03";last="2024-01-04";days=2;do="marketdata backfill --symbols AAPL'
        ' --timeframes 1m --start 2024-01-03 --end 2024-01-04"'
    )
    for media_type in MEDIA_TYPES:
        first = api.get(empty, headers=accepting(media_type))
        assert first.headers["marketdata-incomplete"] == said
        again = api.get(empty, headers={**accepting(media_type), "if-none-match": first.headers["etag"]})
        assert (again.status_code, again.headers["marketdata-incomplete"]) == (304, said)
    features = api.get(empty.replace("historical", "features"))
    assert features.headers["marketdata-incomplete"] == said
    # A page that a limit ended answers for no more than its rows.
    for path in (DAY, DAY.replace("end=2024-01-02", "end=2024-01-04") + "&limit=7"):
        assert "marketdata-incomplete" not in api.get(path).headers


def test_regular_hours_can_be_asked_for(api: TestClient, database: Database) -> None:
    early = [OPEN - place * MINUTE for place in (30, 20, 10)]
    write_batch(database, BarBatch(frame(*(bar("AAPL:1m", time) for time in early))))
    assert len(api.get(DAY).json()["data"]) == 43
    pages_of_regular = [
        decoded(body, ARROW, BAR_SCHEMA) for body in pages(api, f"{DAY}&regular_hours=true&limit=9")
    ]
    assert_frame_equal(
        pl.concat(pages_of_regular), bars("AAPL", "1m", "2024-01-02", "2024-01-02", regular_hours=True)
    )
    latest = api.get("/api/v1/assets/AAPL/candles?timeframe=1m&limit=100&regular_hours=true")
    assert len(latest.json()["data"]) == 40
    refused(
        api.get("/api/v1/historical/BTC-USD?timeframe=1m&regular_hours=true&start=2024-01-02&end=2024-01-02"),
        422,
        "invalid-argument",
    )
    wrong = refused(api.get(f"{DAY}&adjusted=false&as_of=2024-01-02"), 422, "invalid-argument")
    assert "adjusted=False" not in wrong["detail"]
    assert "adjusted=false" in wrong["detail"]

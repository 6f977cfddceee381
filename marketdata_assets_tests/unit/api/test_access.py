"""Who may do what."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from marketdata_assets.api.access import KEY_SECONDS, Caller, KeyRing, identify
from marketdata_assets.api.problems import Problem
from marketdata_assets.storage.keys import ApiKey, Scope, hash_of

MADE = datetime(2024, 1, 1, tzinfo=UTC)


class Ring:
    """A key ring over a list that a test may change, and a clock that it moves."""

    def __init__(self, *keys: ApiKey) -> None:
        self.stored = list(keys)
        self.now = 0.0
        self.loads = 0
        self.keys = KeyRing(["from-the-environment"], self._load, lambda: self.now)

    async def _load(self) -> list[ApiKey]:
        self.loads += 1
        return self.stored

    def find(self, key: str) -> tuple[str, Scope] | None:
        return asyncio.run(self.keys.find(key))

    def caller(self, client: str, *headers: tuple[str, str], open_reads: bool = True) -> Caller:
        scope: dict[str, Any] = {
            "client": (client, 5),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        }
        return asyncio.run(identify(scope, self.keys, open_reads=open_reads))


def api_key(name: str, key: str, scope: Scope = Scope.READ, revoked_at: datetime | None = None) -> ApiKey:
    return ApiKey(name, scope, hash_of(key), MADE, revoked_at)


def test_keys_are_found_by_their_hash() -> None:
    ring = Ring(api_key("boss", "b", Scope.ADMIN), api_key("gone", "g", revoked_at=MADE))
    assert ring.find("b") == ("boss", Scope.ADMIN)
    assert ring.find("g") is None
    assert ring.find("") is None
    assert ring.find("from-the-environment") == ("1 of the environment", Scope.READ)


def test_the_list_is_read_again_after_a_while() -> None:
    ring = Ring(api_key("one", "1"))
    assert ring.find("1")
    ring.stored = [api_key("one", "1", revoked_at=MADE)]
    ring.now = KEY_SECONDS
    assert ring.find("1")
    ring.now = KEY_SECONDS + 0.1
    assert ring.find("1") is None
    assert ring.loads == 2


HOST = ("host", "127.0.0.1:8000")


@pytest.mark.parametrize(
    ("client", "headers", "local"),
    [
        ("127.0.0.1", [HOST], True),
        ("::1", [("host", "[::1]:8000")], True),
        ("127.0.0.1", [("host", "localhost")], True),
        ("10.0.0.7", [HOST], False),
        ("127.0.0.1", [HOST, ("x-forwarded-for", "127.0.0.1")], False),
        ("127.0.0.1", [HOST, ("forwarded", "for=127.0.0.1")], False),
        ("127.0.0.1", [HOST, ("x_forwarded_for", "127.0.0.1")], False),
        ("127.0.0.1", [HOST, ("cf-connecting-ip", "127.0.0.1")], False),
        ("10.0.0.7", [HOST, ("x-forwarded-for", "127.0.0.1")], False),
        ("127.0.0.1", [("host", "bars.example.com")], False),
        ("127.0.0.1", [("host", "127.0.0.1.example.com")], False),
        ("127.0.0.1", [("host", "[broken")], False),
        *[
            ("127.0.0.1", [("host", host)], False)
            for host in ("evil@127.0.0.1", "127.0.0.1/x", "127.0.0.1?x", "::1#x")
        ],
        ("127.0.0.1", [], False),
    ],
)
def test_only_a_program_of_this_machine_is_local(
    client: str, headers: list[tuple[str, str]], *, local: bool
) -> None:
    assert Ring().caller(client, *headers).local is local
    assert Ring().caller(client, *headers, open_reads=False).local is False


def status_of(caller: Caller, needed: Scope) -> int:
    try:
        caller.require(needed)
    except Problem as refused:
        return refused.status
    return 200


@pytest.mark.parametrize(
    ("scope", "gave_key", "local", "reading", "changing"),
    [
        (None, False, True, 200, 401),
        (None, False, False, 401, 401),
        (None, True, True, 401, 401),
        (Scope.READ, True, False, 200, 403),
        (Scope.READ, True, True, 200, 403),
        (Scope.ADMIN, True, False, 200, 200),
    ],
)
def test_what_a_caller_may_do(
    scope: Scope | None, *, gave_key: bool, local: bool, reading: int, changing: int
) -> None:
    caller = Caller("x", scope, gave_key=gave_key, local=local)
    assert status_of(caller, Scope.READ) == reading
    assert status_of(caller, Scope.ADMIN) == changing


def test_who_is_not_known_is_told_what_to_send() -> None:
    with pytest.raises(Problem) as refused:
        Caller("x", None, gave_key=False, local=False).require(Scope.READ)
    assert refused.value.headers == {
        "WWW-Authenticate": 'ApiKey header="X-API-Key", Bearer realm="marketdata"'
    }


def test_a_key_has_a_bucket_of_its_own_wherever_it_comes_from() -> None:
    ring = Ring(api_key("one", "1"))
    assert ring.caller("10.0.0.7", ("x-api-key", "1")).label == "key one"
    assert ring.caller("10.0.0.7", ("x-api-key", "wrong")).label == "10.0.0.7"


@pytest.mark.parametrize(
    ("headers", "label"),
    [
        ([("authorization", "Bearer 1")], "key one"),
        ([("authorization", "bearer  1 ")], "key one"),
        ([("authorization", "Bearer 1"), ("x-api-key", "1")], "key one"),
        ([("x-api-key", "1"), ("x-api-key", "1")], "key one"),
        ([("authorization", "Basic 1")], "10.0.0.7"),
        ([("authorization", "Bearer")], "10.0.0.7"),
        ([("authorization", "Bearer 2"), ("x-api-key", "1")], None),
        ([("x-api-key", "2"), ("x-api-key", "1")], None),
        ([("authorization", "Bearer 2"), ("authorization", "Bearer 1")], None),
    ],
)
def test_a_key_comes_in_either_header_and_only_one(headers: list[tuple[str, str]], label: str | None) -> None:
    ring = Ring(api_key("one", "1"))
    if label is None:
        with pytest.raises(Problem, match="send one"):
            ring.caller("10.0.0.7", HOST, *headers).require(Scope.READ)
        return
    caller = ring.caller("10.0.0.7", HOST, *headers)
    assert (caller.label, caller.gave_key) == (label, not headers[0][1].startswith("Basic"))

from __future__ import annotations

import errno
import os

import adbc_driver_manager
import dagster
import psycopg
import psycopg2  # type: ignore[import-untyped]
import pytest
import sqlalchemy

from marketdata_assets.storage.failures import (
    STORE_ERRORS,
    DiskFullError,
    LostServerError,
    NotPermittedError,
    ReadOnlyStoreError,
    StoreError,
    explain_failure,
    is_driver_error,
)


def of_adbc(code: str, sqlstate: str | None) -> adbc_driver_manager.Error:
    status = adbc_driver_manager.AdbcStatusCode[code]
    return adbc_driver_manager.OperationalError(
        f"{code}: [libpq] could not begin COPY: ERROR:  it failed\n\nQuery was: select secret",
        status_code=status,
        sqlstate=sqlstate,
    )


def of_dagster(inside: Exception) -> Exception:
    """An error of psycopg2, as SQLAlchemy and then Dagster wrap it."""
    of_sqlalchemy = sqlalchemy.exc.OperationalError("insert into secret", {}, inside)
    of_sqlalchemy.__cause__ = inside
    outside = RuntimeError("too many retries")
    outside.__cause__ = of_sqlalchemy
    return outside


class LostInPsycopg2(psycopg2.OperationalError):  # type: ignore[misc]
    pgcode = None


class FullInPsycopg2(psycopg2.OperationalError):  # type: ignore[misc]
    pgcode = "53100"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DiskFull("no room"), DiskFullError),
        (psycopg.errors.ReadOnlySqlTransaction("no"), ReadOnlyStoreError),
        (psycopg.errors.InsufficientPrivilege("no"), NotPermittedError),
        (psycopg.errors.AdminShutdown("ended"), LostServerError),
        (psycopg.errors.ConnectionFailure("ended"), LostServerError),
        (psycopg.OperationalError("the connection is lost"), LostServerError),
        (of_adbc("IO", None), LostServerError),
        (psycopg.OperationalError("could not write init file: No space left on device"), DiskFullError),
        (of_adbc("IO", "57P01"), LostServerError),
        (of_adbc("INTERNAL", "53100"), DiskFullError),
        (of_dagster(LostInPsycopg2("server closed the connection unexpectedly")), LostServerError),
        (of_dagster(FullInPsycopg2("could not extend file")), DiskFullError),
        (OSError(errno.ENOSPC, "No space left on device", "/home/x"), DiskFullError),
        (OSError(errno.EROFS, "Read-only file system", "/home/x"), NotPermittedError),
        (PermissionError(errno.EACCES, "Permission denied", "/home/x"), NotPermittedError),
        (StoreError("as it is"), StoreError),
    ],
)
def test_a_failure_of_the_store_is_known_whoever_reports_it(error: Exception, kind: type[StoreError]) -> None:
    found = explain_failure(error)
    assert type(found) is kind
    assert found.exit_code == 2
    assert "\n" not in str(found)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.QueryCanceled("too slow"),
        psycopg.errors.UndefinedTable("none"),
        psycopg.DataError("wrong"),
        of_adbc("CANCELLED", "57014"),
        FileNotFoundError(errno.ENOENT, "No such file", "/home/x"),
        ValueError("a fault of ours"),
    ],
)
def test_another_error_is_none_of_the_store(error: Exception) -> None:
    assert explain_failure(error) is None
    assert is_driver_error(error) is isinstance(error, psycopg.Error | adbc_driver_manager.Error)


def raised(error: BaseException, *, during: BaseException, is_cause: bool = False) -> BaseException:
    """``error`` as it is when it is raised while ``during`` is handled."""
    error.__context__ = during
    if is_cause:
        error.__cause__ = during
    return error


NO_PERMISSION = PermissionError(errno.EACCES, "Permission denied", "/home/x")
LOST = psycopg.OperationalError("the connection is lost")


@pytest.mark.parametrize("during", [NO_PERMISSION, LOST, DiskFullError("full")], ids=repr)
@pytest.mark.parametrize("fault", [KeyError("a"), AttributeError("b"), RuntimeError("c")], ids=repr)
def test_a_fault_of_ours_while_a_failure_is_handled_is_none_of_the_store(
    fault: Exception, during: Exception
) -> None:
    assert explain_failure(raised(fault, during=during)) is None
    assert explain_failure(raised(ValueError("d"), during=raised(fault, during=during))) is None


@pytest.mark.parametrize(
    "outer",
    [
        psycopg.InterfaceError("the cursor is closed"),
        sqlalchemy.exc.InvalidRequestError("the transaction is over"),
        dagster.DagsterInvariantViolationError("no event"),
    ],
    ids=repr,
)
def test_an_error_of_a_driver_or_of_dagster_is_explained_by_what_it_was_raised_during(
    outer: Exception,
) -> None:
    assert type(explain_failure(raised(outer, during=psycopg.errors.DiskFull("no room")))) is DiskFullError


def test_what_an_error_was_raised_from_explains_it_whatever_it_is() -> None:
    assert type(explain_failure(raised(RuntimeError(), during=LOST, is_cause=True))) is LostServerError


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refusal_without_a_file_is_none_of_the_store(code: int) -> None:
    # A firewall that refuses a connection: connect() reports EACCES or EPERM.
    assert explain_failure(OSError(code, os.strerror(code))) is None
    found = explain_failure(OSError(code, os.strerror(code), "/home/x"))
    assert type(found) is NotPermittedError
    assert str(found).startswith(f"cannot use /home/x ({os.strerror(code)}): ")


def test_every_kind_is_listed() -> None:
    def kinds(kind: type[StoreError]) -> set[type[StoreError]]:
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    assert kinds(StoreError) == set(STORE_ERRORS)

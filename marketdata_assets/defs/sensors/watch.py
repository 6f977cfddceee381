"""``watch``: one alert when a problem begins that no failed run reports."""

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from marketdata_assets.config import load_settings
from marketdata_assets.defs.clock import Clock, read_utc_now
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.monitoring import Concern, Topic, concerns, episodes, headings
from marketdata_assets.domain.wording import counted
from marketdata_assets.pipeline.alerts import Alert, AlertError, Severity, send
from marketdata_assets.pipeline.health import vitals

WATCHED: Final = (Topic.DISK, Topic.RATE_LIMIT, Topic.MINUTE_BACKFILL, Topic.STALE, Topic.SLOW_QUERY)
"""The topics of alerts. ``run_failure`` reports failed runs; gaps are refetched, and a check reports those that remain."""

_SECONDS: Final = 600
_TICK_SECONDS: Final = 40.0
"""The time for reading and for alerts: Dagster ends a tick after a minute, and the tick loses its cursor."""
_ERRORS: Final = (Topic.DISK, Topic.MINUTE_BACKFILL)


def watch_sensor(
    clock: Clock = read_utc_now, *, monotonic: Callable[[], float] = time.monotonic
) -> SensorDefinition:
    """Return the sensor that watches the vendor, the store and its disk every ten minutes; ``monotonic`` times a tick."""

    @sensor(
        name="watch",
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Sends one alert, to the log and to MARKETDATA_WEBHOOK_URL, when the disk fills up, the vendor refuses requests,"
            " minutes are missing, series go stale or queries are slow; again only after an hour without the problem."
        ),
    )
    def watch(context: SensorEvaluationContext, postgres: PostgresResource) -> SkipReason:
        now, end = clock(), monotonic() + _TICK_SECONDS
        settings = load_settings()
        with postgres.database() as database:
            seen = vitals(database, settings, now)
        found = [concern for concern in concerns(seen, now) if concern.topic in WATCHED]
        new, known = episodes(_read_cursor(context.cursor), found, now)
        unsent = {concern.key for concern in new}
        answers = True
        for alert, keys in _write_alerts(new):
            left = end - monotonic()
            # A webhook that did not answer would probably not answer again, and use up the time of the tick: the other
            # alerts are only logged for now, and are sent at the next tick.
            is_blocked = settings.webhook_url is not None and not (answers and left > 0)
            try:
                send(
                    alert,
                    None if is_blocked else settings.webhook_url,
                    within=timedelta(seconds=max(left, 0)),
                    log=context.log,
                )
            except AlertError as error:
                # Raising would lose the cursor, and with it the record of the alerts that were sent.
                context.log.error(str(error))  # noqa: TRY400 - the message is complete
                answers = error.answered
            else:
                if not is_blocked:
                    unsent -= keys
        context.update_cursor(_write_cursor({key: gone for key, gone in known.items() if key not in unsent}))
        return SkipReason(
            f"{counted(len(found), 'problem')}, {len(new):,} of them new" if found else "all is well"
        )

    return watch


def _write_alerts(new: list[Concern]) -> list[tuple[Alert, set[str]]]:
    """Return one alert per topic, each with the keys of the concerns that it reports."""
    return [
        (
            Alert(
                title=heading.title,
                text=f"{heading.text} -> {heading.remedy}",
                severity=Severity.ERROR if heading.topic in _ERRORS else Severity.WARNING,
                facts={"topic": heading.topic.value, "count": str(heading.count)},
            ),
            {concern.key for concern in new if concern.topic is heading.topic},
        )
        for heading in headings(new)
    ]


def _read_cursor(cursor: str | None) -> dict[str, datetime | None]:
    return {
        key: None if gone is None else datetime.fromisoformat(gone)
        for key, gone in json.loads(cursor or "{}").items()
    }


def _write_cursor(known: Mapping[str, datetime | None]) -> str:
    return json.dumps({key: None if gone is None else gone.isoformat() for key, gone in known.items()})

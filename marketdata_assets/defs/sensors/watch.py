"""``watch``: one alert when something begins to go wrong that no failed run tells of."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final

from dagster import DefaultSensorStatus, SensorDefinition, SensorEvaluationContext, SkipReason, sensor

from marketdata_assets.config import load_settings
from marketdata_assets.defs.resources.postgres import PostgresResource
from marketdata_assets.domain.monitoring import Concern, Topic, concerns, episodes, headings
from marketdata_assets.pipeline.alerts import Alert, AlertError, Severity, send
from marketdata_assets.pipeline.health import vitals

WATCHED: Final = (Topic.DISK, Topic.RATE_LIMIT, Topic.MINUTE_BACKFILL, Topic.STALE, Topic.SLOW_QUERY)
"""What is told of. Failed runs are ``run_failure``'s; gaps are asked for again, and a check says what is left of them."""

_SECONDS: Final = 600
_TICK_SECONDS: Final = 40.0
"""For the look and what it tells: Dagster ends a tick after a minute, and forgets what it told."""
_ERRORS: Final = (Topic.DISK, Topic.MINUTE_BACKFILL)


def watch_sensor() -> SensorDefinition:
    """Looks at the vendor, the store and its disk every ten minutes, without a run."""

    @sensor(
        name="watch",
        minimum_interval_seconds=_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            "Tells once, in the log and at MARKETDATA_WEBHOOK_URL, when the disk fills up, the vendor refuses requests,"
            " minutes do not come, series go stale or queries are slow; and again after an hour without it."
        ),
    )
    def watch(context: SensorEvaluationContext, postgres: PostgresResource) -> SkipReason:
        now, end = datetime.now(UTC), monotonic() + _TICK_SECONDS
        settings = load_settings()
        with postgres.database() as database:
            seen = vitals(database, settings, now)
        found = [one for one in concerns(seen, now) if one.topic in WATCHED]
        new, known = episodes(_known(context.cursor), found, now)
        untold = {one.key for one in new}
        answers = True
        for alert, keys in _alerts(new):
            left = end - monotonic()
            # A webhook that did not answer once would not again, and take the time that the tick has: the rest stands in
            # the log for now, and is told at the next tick.
            is_blocked = settings.webhook_url is not None and not (answers and left > 0)
            try:
                send(
                    alert,
                    None if is_blocked else settings.webhook_url,
                    within=timedelta(seconds=max(left, 0)),
                    log=context.log,
                )
            except AlertError as error:
                # Raising would lose the cursor, and with it what was told.
                context.log.error(str(error))  # noqa: TRY400 - its line says all
                answers = error.answered
            else:
                if not is_blocked:
                    untold -= keys
        context.update_cursor(_text({key: gone for key, gone in known.items() if key not in untold}))
        return SkipReason(f"{len(found)} to look after, {len(new)} of them new" if found else "all is well")

    return watch


def _alerts(new: list[Concern]) -> list[tuple[Alert, set[str]]]:
    """One alert a topic, and the keys of the concerns that it tells of."""
    return [
        (
            Alert(
                title=heading.title,
                text=f"{heading.text} -> {heading.remedy}",
                severity=Severity.ERROR if heading.topic in _ERRORS else Severity.WARNING,
                facts={"topic": heading.topic.value, "count": str(heading.count)},
            ),
            {one.key for one in new if one.topic is heading.topic},
        )
        for heading in headings(new)
    ]


def _known(cursor: str | None) -> dict[str, datetime | None]:
    return {
        key: None if gone is None else datetime.fromisoformat(gone)
        for key, gone in json.loads(cursor or "{}").items()
    }


def _text(known: Mapping[str, datetime | None]) -> str:
    return json.dumps({key: None if gone is None else gone.isoformat() for key, gone in known.items()})

from datetime import date

import pytest
from dagster import Config, DagsterInstance, Definitions, asset, define_asset_job

from marketdata_assets.defs.runs.execution import Runner, reason_of, run_metadata
from marketdata_assets.domain.errors import ConfigurationError
from marketdata_assets.domain.partitions import Rectangle
from marketdata_assets.domain.series import Series


class Sizes(Config):
    size: int = 1


@asset
def bars(config: Sizes) -> None:
    if config.size == 0:
        message = "there is nothing"
        raise ValueError(message)
    if config.size < 0:
        message = "set the size to 1 or more"
        raise ConfigurationError(message)


@pytest.fixture
def runner() -> Runner:
    definitions = Definitions(assets=[bars], jobs=[define_asset_job("job", [bars])])
    return Runner(definitions, DagsterInstance.ephemeral(), {"command": "backfill"})


def test_a_run_gets_the_tags_of_its_command_and_of_its_rectangle(runner: Runner) -> None:
    days = Rectangle(date(2024, 1, 2), date(2024, 1, 3), (Series.parse("AAPL:1d"),))
    result = runner.execute("job", config={"bars": {"size": 2}})
    assert result.success
    assert result.get_asset_materialization_events()
    assert result.dagster_run.tags.items() >= {"command": "backfill"}.items()
    tagged = Runner(runner.definitions, runner.instance, runner.tags).execute("job", days)
    assert tagged.dagster_run.tags.items() >= {"command": "backfill", **days.tags}.items()


def test_a_run_that_fails_says_why_and_a_wrong_setting_ends_the_command(runner: Runner) -> None:
    result = runner.execute("job", config={"bars": {"size": 0}})
    assert not result.success
    assert reason_of(result) == "there is nothing"
    assert run_metadata(result) == {}
    with pytest.raises(ConfigurationError, match="set the size to 1 or more"):
        runner.execute("job", config={"bars": {"size": -1}})

"""``prefect.yaml``: both profiles of every job, and what Prefect's page says of their parameters."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
JOBS = ("build-dataset", "train", "evaluate", "re-evaluate", "reproduce", "full")


def flow_of(deployment: dict[str, Any]) -> Any:
    from prefect.flows import load_flow_from_entrypoint  # noqa: TID251 - the tests of flows/ need what flows/ do

    return load_flow_from_entrypoint(deployment["entrypoint"], use_placeholder_flow=False)


@pytest.fixture(scope="module")
def flows() -> dict[str, Any]:
    """Entrypoint -> flow."""
    return {deployment["entrypoint"]: flow_of(deployment) for deployment in DEPLOYMENTS}


def test_every_job_is_deployed_for_both_profiles(flows):
    found = [(flows[one["entrypoint"]].name, one["name"]) for one in DEPLOYMENTS]
    assert sorted(found) == sorted((job, profile) for job in JOBS for profile in ("mini", "sd14"))
    assert [one["name"] for one in DEPLOYMENTS] == [one["parameters"]["profile"] for one in DEPLOYMENTS]


def test_every_parameter_has_a_type_and_says_what_it_is(flows):
    from prefect.utilities.callables import parameter_schema  # noqa: TID251

    for name, flow in flows.items():
        properties = parameter_schema(flow.fn).model_dump_for_openapi()["properties"]
        assert properties, name
        for parameter, schema in properties.items():
            assert {"type", "anyOf", "$ref", "enum"} & set(schema), f"{name}: {parameter} has no type"
            described = schema.get("description", "")
            assert len(described.split()) >= 4, f"{name}: {parameter} is described as {described!r}"
            assert described.endswith("."), f"{name}: {parameter}"
        assert properties["profile"]["enum"] == ["mini", "sd14"]


def test_the_values_of_the_file_are_ones_that_the_flow_takes(flows):
    for deployment in DEPLOYMENTS:
        flow = flows[deployment["entrypoint"]]
        assert flow.validate_parameters(deployment["parameters"]).items() >= deployment["parameters"].items()
        parameters = inspect.signature(flow.fn).parameters
        needed = [name for name, one in parameters.items() if one.default is one.empty]
        assert set(needed) <= set(deployment["parameters"]), "the page's run button needs no further word"


def test_no_two_runs_of_a_deployment_are_at_work_together_and_only_re_evaluation_has_a_schedule(flows):
    for deployment in DEPLOYMENTS:
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert deployment["work_pool"]["name"] == "iedit"
        is_scheduled = flows[deployment["entrypoint"]].name == "re-evaluate"
        assert bool(deployment.get("schedules")) == is_scheduled

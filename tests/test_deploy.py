# SPDX-License-Identifier: MIT
"""The compose folder is whole, and asks for nothing that the outputs don't write. Nothing here can start it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pyegress.loki.fields import NAMES
from pyegress.loki.labels import HOST, JOB
from pyegress.losses import Losses
from pyegress.outputs.prometheus import Prometheus, PrometheusOptions
from pyegress.plugin import Context

FOLDER = Path(__file__).parent.parent / "deploy" / "loki"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "pyegress.json"
WRITTEN = {HOST, JOB, *NAMES}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=|<=|>=|<|>)\s*\"")
_GROUPS = re.compile(r"\bby\s*\(([^)]*)\)")


def loaded(name: str) -> Any:
    """A file of YAML."""
    return yaml.safe_load((FOLDER / name).read_text())


def named(query: str) -> set[str]:
    """Labels and metadata that a query speaks of."""
    groups = {name.strip() for group in _GROUPS.findall(query) for name in group.split(",")}
    return groups | set(_MATCHER.findall(_STRING.sub('""', query)))


def dashboard() -> Any:
    """As Grafana reads it."""
    return json.loads(DASHBOARD.read_text())


def targets(kind: str) -> Iterator[dict[str, Any]]:
    """The queries to data sources of a kind."""
    for panel in dashboard()["panels"]:
        yield from (target for target in panel["targets"] if target["datasource"]["type"] == kind)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: path.name)
def test_yaml(path: Path) -> None:
    """Each file is some."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_names_in_queries() -> None:
    """Each is one that the loki output writes, and so is each that a legend shows."""
    queries = list(targets("loki"))
    assert len(queries) >= 6
    for target in queries:
        found = named(target["expr"])
        assert JOB in found
        assert found <= WRITTEN
        assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= found
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"]["label"] in WRITTEN
            assert named(variable["query"]["stream"]) <= WRITTEN


def test_names_in_the_page() -> None:
    """Queries that docs/loki.md shows speak of what is written, too."""
    (block,) = re.findall(
        r"```logql\n(.*?)```", (FOLDER.parent.parent / "docs" / "loki.md").read_text(), re.DOTALL
    )
    queries = [line.split(" # ")[0] for line in block.splitlines()]
    assert len(queries) == 6
    assert all(named(query) and named(query) <= WRITTEN for query in queries)


def test_what_finds_the_names() -> None:
    """Would see a wrong one anywhere."""
    assert named('sum by (a, b) (rate({c="x=\\"y=", d=~"."} | e!="" | f>"1" [1m]))') == set("abcdef")


def test_metrics_in_queries(tmp_path: Path) -> None:
    """Metrics and labels are those that the prometheus output writes."""
    losses = Losses()
    losses.add("lost", "x")
    output = Prometheus(PrometheusOptions(textfile=str(tmp_path / "x.prom")))
    output.open(Context(losses, lambda text: None, lambda text: None))
    output.close()
    (labels,) = re.findall(
        r"^pyegress_lost_total\{(.*)\} 1\.0$", (tmp_path / "x.prom").read_text(), re.MULTILINE
    )
    found = list(targets("prometheus"))
    assert found
    for target in found:
        assert re.findall(r"pyegress_\w+", target["expr"]) == ["pyegress_lost_total"]
        assert named(target["expr"]) == set(re.findall(r"(\w+)=", labels)) == {"reason", "stage"}


def test_variables() -> None:
    """Each that is used is declared, and each that is declared is used; Grafana has those with two underscores."""
    text = json.dumps([panel["targets"] for panel in dashboard()["panels"]])
    used = {name for name in re.findall(r"\$(\w+)", text) if not name.startswith("__")}
    assert used == {variable["name"] for variable in dashboard()["templating"]["list"]}


def test_data_sources() -> None:
    """Every uid and type that the dashboard refers to is provisioned, and each panel's number is its own."""
    provisioned = {
        (source["type"], source["uid"])
        for source in loaded("grafana/provisioning/datasources/pyegress.yaml")["datasources"]
    }
    panels = dashboard()["panels"]
    referred = {
        (part["datasource"]["type"], part["datasource"]["uid"]) for p in panels for part in (p, *p["targets"])
    }
    assert referred == provisioned
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_compose() -> None:
    """Images have exact versions, nothing listens beyond loopback, and what is mounted is there."""
    services = loaded("compose.yaml")["services"]
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in loaded("compose.yaml")["volumes"] or (FOLDER / source).exists()
    for name in ("grafana", "prometheus"):
        said = [*services[name].get("command", ()), *services[name].get("environment", {}).values()]
        assert any("127.0.0.1" in str(word) for word in said)
    urls = [
        source["url"] for source in loaded("grafana/provisioning/datasources/pyegress.yaml")["datasources"]
    ]
    assert urls == ["http://127.0.0.1:3100", "http://127.0.0.1:9090"]
    (scraped,) = loaded("prometheus.yaml")["scrape_configs"][0]["static_configs"]
    assert scraped["targets"] == [PrometheusOptions().listen]


def test_loki_takes_structured_metadata() -> None:
    """Which asks for this schema; and its pages are not cut short by gRPC within it."""
    config = loaded("loki.yaml")
    (schema,) = config["schema_config"]["configs"]
    assert (schema["store"], schema["schema"], schema["index"]["period"]) == ("tsdb", "v13", "24h")
    assert config["limits_config"]["allow_structured_metadata"] is True
    assert config["server"]["grpc_server_max_recv_msg_size"] >= 64 << 20

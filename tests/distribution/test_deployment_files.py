"""The alert rules, the Helm chart and the Kubernetes manifests in ``deploy/``, checked by their own tools."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from realizehit import __version__
from tests.support.programs import needs

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "realizehit"
MANIFESTS = ROOT / "deploy" / "kubernetes" / "realizehit.yaml"
KUBERNETES = ("1.25", "1.30")  # the oldest that the chart allows, and a newer one
EVERYTHING = (
    "autoscaling.enabled=true", "ingress.enabled=true", "ingress.host=rt.example", "ingress.tlsSecret=site",
    "accessSecret.name=access", "accessSecret.keys=true", "accessSecret.grants=true", "broker.existingSecret=broker",
    "insecurePublish=true", "serviceMonitor.enabled=true", "drainSeconds=60", "preStopSeconds=0",
)  # fmt: skip

pytestmark = pytest.mark.slow


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if (
        words[0] == "helm"
    ):  # no package of Debian's has it, and building it takes CI minutes: the manifests are checked there
        if shutil.which("helm") is None:
            pytest.skip("helm is not installed")
    else:
        needs(str(words[0]))
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


def rendered(*settings: str) -> str:
    values = [word for each in settings for word in ("--set", each)]
    done = run("helm", "template", "realizehit", CHART, "--kube-version", "1.30.0", *values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> dict[str, Any]:
    """The documents of a manifest by their kind."""
    return {each["kind"]: each for each in yaml.safe_load_all(text) if each}


def pod_of(text: str) -> Any:
    return documents(text)["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts.test.yml")])
def test_alert_rules(words: tuple[str, ...]) -> None:
    done = run("promtool", *words[:-1], ROOT / "deploy" / "prometheus" / words[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_each_alert_rule_has_a_test() -> None:
    folder = ROOT / "deploy" / "prometheus"
    rules = yaml.safe_load((folder / "alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((folder / "alerts.test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules}


def test_chart_passes_lint() -> None:
    done = run("helm", "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_manifests_are_those_of_the_chart() -> None:
    first, _, rest = MANIFESTS.read_text().partition("\n")
    assert first.startswith("# ")
    assert rest == rendered()


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_fit_the_schemas_of_kubernetes(version: str) -> None:
    found = documents(MANIFESTS.read_text())
    assert found.keys() == {"Deployment", "PodDisruptionBudget", "Service"}
    for each in found.values():
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_all_parts_of_the_chart_fit_the_schemas_of_kubernetes(version: str) -> None:
    found = documents(rendered(*EVERYTHING))
    monitor = found.pop("ServiceMonitor")  # Kubernetes has no schema of it
    assert monitor["spec"]["endpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
    assert found.keys() == {"Deployment", "HorizontalPodAutoscaler", "Ingress", "PodDisruptionBudget", "Service"}
    for each in found.values():
        kubernetes_validate.validate(each, version, strict=True)
    assert "replicas" not in found["Deployment"]["spec"]  # the autoscaler sets them


@pytest.mark.parametrize(("settings", "seconds"), [((), 35), (EVERYTHING, 70), (("drainSeconds=600",), 615)])
def test_kubernetes_waits_longer_than_the_drain(settings: tuple[str, ...], seconds: int) -> None:
    assert pod_of(rendered(*settings))["terminationGracePeriodSeconds"] == seconds


def test_settings_that_the_pod_gives_are_settings_of_the_server() -> None:
    shown = subprocess.run(
        [shutil.which("realizehit-server") or "realizehit-server", "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = [each["name"] for each in pod_of(rendered(*EVERYTHING))["containers"][0]["env"]]
    assert len(names) >= 7
    assert [name for name in names if name not in shown] == []


@pytest.mark.parametrize(
    "setting",
    ["replicas=0", "drainSeconds=-1", "broker.url=http://valkey", "image.pullPolicy=Sometimes", "unknown=1",
     "podDisruptionBudget.maxUnavailable=0", "ingress.enabled=true"],
)  # fmt: skip
def test_bad_values_are_refused(setting: str) -> None:
    done = run("helm", "template", "realizehit", CHART, "--kube-version", "1.30.0", "--set", setting)
    assert done.returncode != 0
    assert setting.split("=", maxsplit=1)[0].split(".", maxsplit=1)[0] in done.stderr


def test_versions_are_those_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__}

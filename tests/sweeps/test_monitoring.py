"""A sweep's metrics arrive in the real Prometheus, and each panel of the Grafana dashboard shows some of them.

Grafana itself is not here: its dashboard is taken apart, and its panels' queries are put to Prometheus.
"""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "configs" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "lmsweep.json").read_text())
DATASOURCE = yaml.safe_load((MONITORING / "grafana" / "provisioning" / "datasources" / "prometheus.yml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$SessionName": ".*", "$sweep": "watched", "$window": "30s"}
NAMED_IN_QUERIES = re.compile(r"ray_lmsweep_\w+")
COMMAND = (
    *("--name", "watched", "--search", "random", "--scheduler", "none", "--trials", "200", "--slots", "2"),
    *("--set", "sizes=[{name: xs, model.d_model: 32, model.d_ff: 64, model.num_layers: 1}]"),
    *("--set", "model.context_length=64", "--set", "train.steps=100", "--set", "train.eval_every=20"),
    *(
        "--set",
        "compare=[]",
        "--set",
        "confirm.top=0",
        "--set",
        "data.source=tokens.npy",
        "--set",
        "data.vocab_size=61",
        "--wandb",
        "off",
    ),
)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fetch(url, token=None):
    """The JSON at a URL."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def wait_for(ask, seconds, what):
    """The first true value that `ask()` returns."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := ask():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.5)
    raise AssertionError(f"no {what} in {seconds} s")


def query_of(target):
    """The query of a panel with Grafana's variables filled in."""
    query = target["expr"]
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


@pytest.fixture
def prometheus(in_tmp):
    """Address of a Prometheus on our configuration, in a copy of the repository's folders; it scrapes each second."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    copy = in_tmp / "configs" / "monitoring"
    copy.mkdir(parents=True)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "1s"
    discovery = config["scrape_configs"][0]["file_sd_configs"][0]
    discovery["files"] = [path for path in discovery["files"] if not path.startswith("/tmp")]  # whatever runs there
    discovery["refresh_interval"] = "1s"
    (copy / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={in_tmp}/data")
    process = subprocess.Popen(
        ["prometheus", f"--config.file={copy}/prometheus.yml", *options],
        stderr=(in_tmp / "prometheus.log").open("wb"),
    )
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def grafana():
    """Address of a server that says it is a healthy Grafana: all that Ray's dashboard asks before it embeds one."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"database": "ok"}')

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def sweep(in_tmp, prometheus, grafana):
    """A sweep that runs until the test ends, in runs/watched; its output goes to sweep.log."""
    walk = np.random.default_rng(0).integers(0, 3, 20_000)
    np.save(in_tmp / "tokens.npy", np.cumsum(walk).astype(np.uint16) % 61)
    environment = {
        "RAY_PROMETHEUS_HOST": prometheus,
        "RAY_GRAFANA_HOST": grafana,
        "RAY_metrics_report_interval_ms": "2000",
        "RAY_AUTH_TOKEN_PATH": str(in_tmp / "token"),
    }
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps" / "run.py"), *COMMAND],
        env=os.environ | environment,
        stdout=(in_tmp / "sweep.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    yield in_tmp
    process.terminate()
    process.wait(60)


@pytest.mark.ray
def test_every_panel_shows_data_of_a_running_sweep_and_rays_metrics_page_shows_these_panels(sweep, prometheus):
    def result(query):
        return fetch(f"{prometheus}/api/v1/query?query={urllib.parse.quote(query)}")["data"]["result"]

    wait_for(lambda: result('ray_lmsweep_refills_total{sweep="watched"}'), 150, "refill in Prometheus")
    wait_for(lambda: result('ray_lmsweep_best_val_loss{sweep="watched"}'), 60, "complete trial in Prometheus")
    for panel in PANELS:
        for target in panel["targets"]:
            query = query_of(target)
            if "gpu" in query or "gram" in query:
                result(query)  # parses
            else:
                found = wait_for(lambda query=query: result(query), 30, f"data for {panel['title']}: {query}")
                assert all(float(one["value"][1]) >= 0 for one in found), panel["title"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            metric = metric.replace("$SessionName", ".*")
            assert all(one["metric"][label] for one in result(metric)), variable["name"]

    # The same numbers as in the rows.
    rows = [json.loads(line) for line in (sweep / "runs" / "watched" / "metrics.jsonl").read_text().splitlines()]
    [best] = result('ray_lmsweep_best_val_loss{sweep="watched"}')
    assert float(best["value"][1]) in {row["final_val_loss"] for row in rows}
    assert (best["metric"]["size"], best["metric"].get("arm", "")) == ("xs", "")
    assert float(result('sum(ray_lmsweep_trials{sweep="watched", status="running"})')[0]["value"][1]) <= 6

    # Ray's page asks Grafana for the dashboard with this uid, and the dashboard for the data source with this name.
    address = re.search(r"Ray dashboard: (\S+)", (sweep / "sweep.log").read_text())[1]
    token = (sweep / "token").read_text()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        fetch(f"{address}/api/grafana_health")
    assert fetch(f"{address}/api/prometheus_health", token)["result"]
    asked = fetch(f"{address}/api/grafana_health", token)["data"]
    assert asked["dashboardUids"]["default"] == DASHBOARD["uid"]
    assert asked["dashboardDatasource"] == DATASOURCE["datasources"][0]["name"]


def test_every_metric_is_in_a_panel_and_every_panel_names_metrics_that_exist():
    from sweeps.callbacks.gauges import METRICS

    exported = {f"ray_lmsweep_{metric.name}{'_total' if metric.counter else ''}" for metric in METRICS}
    assert set(NAMED_IN_QUERIES.findall(json.dumps(DASHBOARD))) == exported


def test_prometheus_looks_where_sweeps_write_and_grafana_finds_what_it_is_given(in_tmp):
    from sweeps.callbacks.metrics_targets import MetricsTargets
    from sweeps.rundir.folder import RunFolder

    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    first = config["scrape_configs"][0]["file_sd_configs"][0]["files"][0]
    written = MetricsTargets(RunFolder(ROOT / "runs" / "quick")).path
    assert written.match(str((MONITORING / first).resolve()))
    provider = yaml.safe_load((MONITORING / "grafana" / "provisioning" / "dashboards" / "lmsweep.yml").read_text())
    folder = Path(provider["providers"][0]["options"]["path"].replace("${PWD}", str(ROOT)))
    assert [path.name for path in folder.iterdir()] == ["lmsweep.json"]
    ini = (MONITORING / "grafana" / "grafana.ini").read_text()
    assert Path(re.search(r"provisioning = (.*)", ini)[1].replace("$__env{PWD}", str(ROOT))).is_dir()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_configuration():
    subprocess.run(["promtool", "check", "config", MONITORING / "prometheus.yml"], check=True, capture_output=True)

"""Ray's dashboard starts after the trials have begun, answers, and ends with the sweep; a sweep can do without it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, queue, re, urllib.error, urllib.request
from pathlib import Path
from sweeps.cluster.auth import require_token
require_token()
import ray
from sweeps.cluster.late_dashboard import SERVER, LateDashboard
from sweeps.cluster.local_ray import local_ray
from sweeps.cluster.reaper import processes_of

def servers():
    return len(processes_of(Path(ray._private.worker._global_node.get_session_dir_path()), SERVER))

found, said = {}, queue.Queue()
with local_ray("127.0.0.1", lambda folder: None):
    found["before"] = servers()
    if BROKEN:
        ray._private.worker._global_node.start_api_server = None
    with LateDashboard("127.0.0.1", private=False, say=said.put, wait_s=0.0) as dashboard:
        dashboard.start()
        found["line"] = said.get(timeout=60)
        found["during"] = servers()
        if address := re.search(r"http://[0-9.:]+", found["line"]):
            try:
                found["status"] = urllib.request.urlopen(address[0], timeout=20).status
            except urllib.error.HTTPError as refused:
                found["status"] = refused.code
    found["after"] = servers()
    found["trains_on"] = ray.get(ray.remote(lambda: 7).remote())
with LateDashboard(None, private=False, say=said.put) as never:
    never.start()
found["unsaid"] = said.empty()
print(json.dumps(found))
"""

pytestmark = pytest.mark.ray


def run(broken):
    script = SCRIPT.replace("BROKEN", str(broken))
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_dashboard_answers_once_it_has_been_started_and_ends_with_its_block():
    found = run(broken=False)
    assert (found["before"], found["during"], found["after"]) == (0, 1, 0)
    assert found["line"].startswith("Ray dashboard: http://127.0.0.1:")
    assert found["status"] in (200, 401)  # with a token it may ask who is there
    assert found["trains_on"] == 7
    assert found["unsaid"]


def test_a_dashboard_that_does_not_start_is_a_note():
    found = run(broken=True)
    assert found["line"].startswith("Note: Ray's dashboard did not start (")
    assert found["line"].endswith("; the sweep goes on without it.")
    assert (found["during"], found["trains_on"]) == (0, 7)

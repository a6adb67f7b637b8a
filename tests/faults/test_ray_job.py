"""A sweep as a job of Ray, `ray job submit`: it runs in a copy that Ray deletes, and its results are where it says."""

import re
import shlex

import pytest
from hosts import LIGHT, Hosts
from sweeping import ROOT, curves, write_config

TOKEN = {"RAY_AUTH_MODE": "token"}


def submit_command():
    """The words of the docs' command."""
    page = (ROOT / "docs" / "howto" / "cluster.md").read_text()
    [command] = re.findall(r"^RAY_AUTH_MODE=token (ray job submit .*)$", page, re.MULTILINE)
    words = shlex.split(command)
    words.remove("--no-wait")  # so that the command's exit code is the job's
    return words


@pytest.mark.ray
def test_a_job_of_ray_refuses_to_write_into_its_copy_and_leaves_its_results_in_the_folder_that_it_names(
    tiny, control, fault
):
    (tiny / "work").mkdir()
    (tiny / "tokens.npy").rename(tiny / "work" / "tokens.npy")
    write_config(tiny / "work" / "my.yaml")
    words = submit_command()
    words[words.index("quick")] = "my.yaml"
    words[words.index("/shared/runs")] = str(tiny / "results")
    before, after = words[: words.index("--")], words[words.index("--") :]
    lost = fault("Ray job in a copy that Ray deletes")
    lost.injected()
    with Hosts(1, tiny) as [head]:
        head.run("lmsweep cluster-token", check=0)
        head.run(f"ray start --head --num-cpus=4 {LIGHT}", check=0, **TOKEN)
        submit = [*before, "--working-dir", "work"]
        refused = head.run([*submit, *after[: after.index("--runs")]], **TOKEN)
        assert refused.returncode == 1
        line, *_ = [
            line for line in refused.stdout.splitlines() if line.startswith("--runs: ")
        ]  # and once more at its end
        assert re.search(r"as Ray deletes the copy that a job runs in \(got /tmp/ray/.*/runs\); give a path", line)
        done = head.run([*submit, *after], check=0, timeout=400, **TOKEN).stdout
        assert f"Results: {tiny}/results/mine;" in done
        assert f"Written to {tiny}/results/mine/report: " in done
    assert curves(tiny / "results" / "mine") == control.curves
    lost.survived()

"""The files in configs/cluster are what Ray, KubeRay and Slurm take, and every cluster in them demands a token."""

import copy
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sweeps.cli.options import AUTO, parse
from sweeps.spec.load import load_spec

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "cluster"
RAYJOB = "KUBERAY_RAYJOB_CRD"
"""Names a copy of KubeRay's ray.io_rayjobs.yaml, against which the RayJob is then checked as well."""


@pytest.mark.parametrize(("name", "workers"), [("ray.yaml", 4), ("ray-on-premise.yaml", 2)])
def test_rays_own_loader_takes_the_files_for_ray_up_and_every_node_gets_the_token(name, workers):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((FOLDER / name).read_text()))
    validate_config(config)
    assert sum(kind["min_workers"] for kind in config["available_node_types"].values()) == workers
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start --" in command for command in starts)
    with pytest.raises(Exception, match="idle_timeout"):  # the loader is not one that takes anything
        validate_config({**config, "idle_timeout_minutes": "soon"})


def strict(schema):
    """KubeRay's schema as JSON Schema that refuses unknown fields, as `kubectl` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: strict(part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    open_ended = schema.keys() & {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict) and not open_ended:
        schema["additionalProperties"] = False
    return schema


def part(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def the(kind, **more):
    return {"type": kind, **more}


TEXTS = the("object", additionalProperties=the("string"))
CONTAINER = part(
    ["name", "image", "resources", "volumeMounts"],
    name=the("string"),
    image=the("string"),
    ports=the("array", items=part(["containerPort"], name=the("string"), containerPort=the("integer"))),
    resources=part(["requests", "limits"], requests=TEXTS, limits=TEXTS),
    volumeMounts=the("array", items=part(["name", "mountPath"], name=the("string"), mountPath=the("string"))),
)
VOLUME = part(["name"], name=the("string"), persistentVolumeClaim=part(["claimName"], claimName=the("string")))
TEMPLATE = part(
    ["spec"],
    spec=part(["containers"], containers=the("array", items=CONTAINER, minItems=1), volumes=the("array", items=VOLUME)),
)
WORKERS = part(
    ["groupName", "rayStartParams", "template"],
    groupName=the("string"),
    **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), the("integer")),
    rayStartParams=TEXTS,
    template=TEMPLATE,
)
SPEC = part(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=the("string"),
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    **dict.fromkeys(("backoffLimit", "ttlSecondsAfterFinished"), the("integer", minimum=0)),
    shutdownAfterJobFinishes=the("boolean"),
    rayClusterSpec=part(
        ["headGroupSpec", "authOptions", "rayVersion"],
        rayVersion=the("string"),
        authOptions=part(["mode"], mode={"enum": ["token"]}),
        headGroupSpec=part(["rayStartParams", "template"], rayStartParams=TEXTS, template=TEMPLATE),
        workerGroupSpecs=the("array", items=WORKERS),
    ),
)
FIELDS = part(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=part(["name"], name=the("string")),
    spec=SPEC,
)
"""The fields of a RayJob that ours uses, with KubeRay's types."""


def schemas():
    yield FIELDS
    if path := os.environ.get(RAYJOB):
        [version] = [one for one in yaml.safe_load(Path(path).read_text())["spec"]["versions"] if one["name"] == "v1"]
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = the("object")
        yield schema


def test_the_rayjob_has_the_fields_that_kuberay_knows_with_their_types_and_a_token():
    jsonschema = pytest.importorskip("jsonschema")
    job, claim = yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text())
    for schema in schemas():
        jsonschema.validate(job, schema)
        for path, value in (("backoffLimit", "3"), ("shutdownAfterJobFinish", True)):
            broken = copy.deepcopy(job)
            broken["spec"][path] = value
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(broken, schema)
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:  # all see the folder to which the sweep writes
        [volume], [container] = pod["volumes"], pod["containers"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/shared"}]
    import ray

    assert cluster["rayVersion"] == ray.__version__
    program, command, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("lmsweep", "run")
    options = parse(words)
    assert (options.address, options.resume, options.runs) == ("auto", AUTO, Path("/shared/runs"))
    assert load_spec(options.config, options.set, **options.flags).name == "mine"


def test_shellcheck_has_nothing_to_say_about_the_slurm_script():
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(
        ["shellcheck", "--format=json", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout) == []
    assert done.returncode == 0

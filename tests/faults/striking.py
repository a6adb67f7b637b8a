"""Kills a process of a sweep at a chosen moment between a trial's last row and what the study is told.

`SITE` is the text of a sitecustomize.py that every process of the sweep imports. STRIKES names a folder with
plan.json, `{trial: [moment, step]}`: when the trial with that row comes to that moment, the victim (`STRIKES_VICTIM`)
is killed with SIGKILL, and the process that came there goes on once it is dead. A strike leaves a file in the folder.
A node is killed by the test, which sees that file and then makes another one that ends in `.dead`; which node trained
the trial last is in a file that ends in `.host`.
"""

SITE = '''
import glob, importlib.abc, importlib.util, json, os, signal, socket, sys, time

FOLDER, VICTIM = os.environ["STRIKES"], os.environ["STRIKES_VICTIM"]
with open(FOLDER + "/plan.json") as file:
    PLAN = json.load(file)
ROOTS = ["root"]


if any(argument.endswith("sweeps/run.py") for argument in sys.orig_argv):
    with open(FOLDER + "/root", "w") as file:
        file.write(str(os.getpid()))


def processes():
    """Title by pid of the processes of this sweep that have not ended. A process title hides /proc/*/environ."""
    titles, children = {}, {}
    for path in glob.glob("/proc/[0-9]*"):
        try:
            with open(path + "/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            with open(path + "/cmdline", "rb") as file:
                title = file.read().replace(b"\\0", b" ").decode().strip()
        except OSError:
            continue
        children.setdefault(int(parent), []).append(int(path[6:]))
        if state != "Z":
            titles[int(path[6:])] = title
    family = []
    for root in ROOTS:
        with open(f"{FOLDER}/{root}") as file:
            family.append(int(file.read()))
    for pid in family:
        family += children.get(pid, [])
    return {pid: titles[pid] for pid in family if pid in titles}


def victims(trial):
    titles = processes()
    if VICTIM == "driver":
        return [pid for pid, title in titles.items() if "sweeps/run.py" in title]
    marks = ("ray::engine", "ray::SlotWorker") if VICTIM == "engine" else ("ray::TrialTrainable", "ray::" + trial)
    return [pid for pid, title in titles.items() if title.startswith(marks)]


def moment(name, trial, step):
    if trial not in PLAN or PLAN[trial] != [name, step]:
        return
    try:
        os.close(os.open(f"{FOLDER}/{trial}.{name}.struck", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if VICTIM == "node":
        while not os.path.exists(f"{FOLDER}/{trial}.{name}.dead"):
            time.sleep(0.01)
        return
    struck = victims(trial)
    with open(f"{FOLDER}/{trial}.{name}.struck", "w") as file:
        file.write(" ".join(map(str, struck)))
    for pid in struck:
        os.kill(pid, signal.SIGKILL)
    while set(struck) & set(processes()):
        time.sleep(0.01)


def around(owner, name, before=None, after=None):
    """Wrap a method with what is done before it, and with its result after it."""
    method = getattr(owner, name)

    def wrapped(self, *args, **kwargs):
        if before is not None:
            before(self, *args)
        result = method(self, *args, **kwargs)
        if after is not None:
            after(self, result, *args)
        return result

    setattr(owner, name, wrapped)


def loop(module):
    def computed(self, trial, row):
        with open(f"{FOLDER}/{trial}.host", "w") as file:
            file.write(socket.gethostname())
        moment("computed", trial, row["step"])

    around(module.TrainingLoop, "_report", computed)


def worker(module):
    row = module.SlotWorker.row

    async def row_and_moment(self, trial, *args, **kwargs):
        found = await row(self, trial, *args, **kwargs)
        if found is not None:
            moment("returning", trial, found["step"])
        return found

    module.SlotWorker.row = row_and_moment


def trainable(module):
    around(module.TrialTrainable, "step", after=lambda self, row: moment("forwarded", self._trial, row.get("step")))


def scheduler(module):
    around(
        module.StudyScheduler,
        "on_trial_result",
        lambda self, controller, trial, row: moment("received", trial.config["trial"], row.get("step")),
        lambda self, decision, controller, trial, row: moment("decided", trial.config["trial"], row.get("step")),
    )


def pool(module):
    def ends(self, trial, *args):
        moment("releasing", trial, LAST.get(trial))

    around(module.WorkerPool, "release", ends)


LAST = {}


def ledger(module):
    def reported(self, status, trial, row):
        LAST[trial] = row["step"]
        moment("reported", trial, row["step"])

    around(module.Ledger, "report", after=reported)
    around(module.Ledger, "end", lambda self, trial: moment("ending", trial, LAST.get(trial)))


def study(module):
    def told(self, _, handle, *args):
        moment("told", handle.id, LAST.get(handle.id))

    def telling(self, handle, *args):
        moment("telling", handle.id, LAST.get(handle.id))

    around(module.StudyState, "tell", telling, told)


def rows(module):
    def written(self, _, handle, row):
        moment("written", handle.id, row["step"])

    around(module.RowFile, "on_report", after=written)


def files(module):
    def filed(self, _, handle):
        moment("filed", handle.id, LAST.get(handle.id))

    around(module.TrialFiles, "on_trial_end", after=filed)


HOOKS = {
    "sweeps.engine.training_loop": loop,
    "sweeps.engine.worker": worker,
    "sweeps.engine.pool": pool,
    "sweeps.tune.trainable": trainable,
    "sweeps.tune.scheduler": scheduler,
    "sweeps.study.ledger": ledger,
    "sweeps.study.study_state": study,
    "sweeps.callbacks.metrics_file": rows,
    "sweeps.callbacks.trial_files": files,
}


class Hooked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in HOOKS:
            return None
        hook = HOOKS.pop(name)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_hook(module):
            load(module)
            hook(module)

        spec.loader.exec_module = load_and_hook
        return spec


sys.meta_path.insert(0, Hooked())
'''

MOMENTS = (
    "computed",  # in the engine: the row is there, nobody has it
    "returning",  # in the engine: on its way to the trial's proxy
    "forwarded",  # in the proxy: on its way to the driver
    "received",  # in the driver, from here on
    "reported",  # the study knows the loss, and the driver the verdict
    "releasing",  # the engine's slot is about to be freed
    "written",  # the row is in metrics.jsonl
    "decided",  # Tune is about to stop the trial
    "ending",
    "telling",  # the study has the trial's attributes, but not its state
    "told",
    "filed",  # weights that are not kept are deleted
)

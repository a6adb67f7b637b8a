"""The folder of a local Ray: only its owner can open it, its path is short, and at the end it or its logs are all."""

import os
import stat
from contextlib import suppress

import pytest

from lmcore.errors import InputError
from sweeps.cluster import private_folder as module
from sweeps.cluster.private_folder import PARENT_BYTES, RayStartError, private_folder, why_unfit
from sweeps.cluster.reaper import keep_logs

SESSION = "session_2026-01-02_03-04-05_678901_23"


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """A folder that takes the place of /tmp, and is short enough whatever pytest calls it."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(module, "DEFAULT_PARENT", str(tmp_path))
    monkeypatch.setattr(module, "OTHER_PARENTS", ())
    monkeypatch.setattr(module, "PARENT_BYTES", len(str(tmp_path)))
    return tmp_path


def fill(folder):
    """What Ray makes in it: open to everybody."""
    session = folder / SESSION
    for name in ("sockets", "logs", "runtime_resources/pip"):
        (session / name).mkdir(parents=True)
    for path in (folder, session, session / "sockets", session / "logs"):
        path.chmod(0o777)
    (folder / "session_latest").symlink_to(session)
    (session / "sockets" / "raylet").touch()
    (session / "logs" / "raylet.out").write_text("why it failed")


def left_by(error):
    """The private folder's path, after a block that filled it and raised."""
    with suppress(type(error)), private_folder() as folder:
        fill(folder)
        raise error
    return folder


def test_only_its_owner_can_open_it_whatever_the_umask_and_it_is_deleted_at_the_end(parent):
    before = os.umask(0)
    try:
        with private_folder() as folder:
            fill(folder)
            [private] = parent.iterdir()
            assert folder.parent == private
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert private.stat().st_uid == os.geteuid()
    finally:
        os.umask(before)
    assert list(parent.iterdir()) == []


def test_after_an_error_the_logs_stay_and_one_line_says_where(parent, capsys):
    folder = left_by(RuntimeError())
    logs = folder / "session_latest" / "logs"
    assert capsys.readouterr().err == f"Ray's logs are kept in {logs}\n"
    assert (logs / "raylet.out").read_text() == "why it failed"
    assert sorted(path.name for path in folder.rglob("*")) == ["logs", "raylet.out", SESSION, "session_latest"]
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), InputError("too few CPUs")])
def test_after_an_interrupt_or_wrong_input_nothing_stays(parent, error, capsys):
    left_by(error)
    assert list(parent.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_the_one_who_deletes_it_later_is_told_its_name(parent):
    told = []
    with private_folder(told.append) as folder:
        assert told == [folder.parent]


def test_what_is_not_private_is_not_deleted(tmp_path):
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    fill(other / "r")
    (tmp_path / "link").symlink_to(other)
    assert not keep_logs(other)
    assert not keep_logs(tmp_path / "link")
    assert not keep_logs(tmp_path / "missing")
    assert (other / "r" / SESSION / "sockets" / "raylet").exists()


def test_the_users_folder_is_used_where_it_is_fit_and_else_one_line_says_why_not(parent, monkeypatch, capsys):
    mine, open_to_all = parent / "m", parent / "o"
    mine.mkdir()
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.setattr(module, "PARENT_BYTES", len(str(mine)))
    monkeypatch.setenv("RAY_TMPDIR", str(open_to_all))
    monkeypatch.setenv("TMPDIR", str(mine))
    with private_folder() as folder:
        assert folder.parent.parent == mine
    reason = f"other users can rename what is in {open_to_all} (got {open_to_all})"
    assert capsys.readouterr().err == f"Note: RAY_TMPDIR is not used for Ray, because {reason}.\n"
    long = parent / ("long" * 20)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    monkeypatch.delenv("TMPDIR")
    with private_folder() as folder:
        assert folder.parent.parent == parent
    assert f"its path has {len(str(long))} bytes" in capsys.readouterr().err


def test_a_folder_in_which_others_can_rename_is_unfit_and_a_sticky_one_is_fit(parent):
    folder = parent / "x"
    folder.mkdir()
    below = folder / "y"
    below.mkdir()
    for path, mode, fit in (
        (folder, 0o777, False),
        (folder, 0o770, False),
        (folder, 0o1777, True),
        (folder, 0o755, True),
    ):
        path.chmod(mode)
        monkey = why_unfit_of_any_length(below)
        assert (monkey is None) == fit, oct(mode)
    assert "not a folder that you can write to" in why_unfit(str(parent / "missing"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        assert why_unfit_of_any_length(below) == f"{folder} belongs to another user"


def why_unfit_of_any_length(path):
    module.PARENT_BYTES = 4096  # `parent` restores it
    return why_unfit(str(path))


def test_without_any_fit_folder_there_is_no_ray(parent):
    parent.chmod(0o777)
    line = rf"^Ray did not start \(.* but of {parent}: other users can rename .*\); set RAY_TMPDIR to a folder of yours"
    with pytest.raises(RayStartError, match=line) as error, private_folder():
        pass
    assert not error.value.may_pass
    parent.chmod(0o700)


def test_where_tmp_is_unfit_another_folder_of_the_system_is_used_and_one_line_says_so(parent, monkeypatch, capsys):
    (parent / "v").mkdir()
    monkeypatch.setattr(module, "PARENT_BYTES", len(str(parent / "v")))
    monkeypatch.setattr(module, "DEFAULT_PARENT", str(parent / "missing"))
    monkeypatch.setattr(module, "OTHER_PARENTS", (str(parent / "absent"), str(parent / "v")))
    with private_folder() as folder:
        assert folder.parent.parent == parent / "v"
    reason = f"{parent / 'missing'} is not used for Ray, because it is not a folder that you can write to"
    assert capsys.readouterr().err == f"Note: {reason}; its files are in {parent / 'v'}.\n"


def test_the_folder_that_macos_gives_everybody_is_left_out_without_a_word(parent, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", "/var/folders/x1/8f1c0000gn/T/")
    with private_folder() as folder:
        assert folder.parent.parent == parent
    assert capsys.readouterr().err == ""


def test_a_folder_whose_new_folders_belong_to_its_group_is_fit(parent):
    parent.chmod(0o2700)
    with private_folder() as folder:
        assert folder.parent.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_written_to_after_all_is_one_line(parent, monkeypatch):
    def refuse(prefix, dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(module.tempfile, "mkdtemp", refuse)
    with pytest.raises(RayStartError, match=f"{parent} cannot be written to: Read-only file system"), private_folder():
        pass


def test_a_socket_in_the_longest_allowed_folder_can_be_bound(tmp_path):
    import socket

    longest = "/" + "t" * (PARENT_BYTES - 1) + "/" + module.LONGEST_SOCKET
    assert len(longest) == 107
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(FileNotFoundError):
        server.bind(longest)  # the path is not too long: OSError("AF_UNIX path too long")
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(OSError, match="too long"):
        server.bind(f"{longest}x")

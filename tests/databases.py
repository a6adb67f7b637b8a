"""PostgreSQL and MariaDB servers of the tests' own: in a temporary folder, on a free port of the loopback device."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy

USER, PASSWORD, DATABASE = "sweeper", "s3cr3t", "sweeps"
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


class Server:
    """A database server that the test may stop and start again."""

    url = ""
    """With the user, and without the password."""

    def __init__(self, account):
        self.folder = Path(tempfile.mkdtemp(prefix="lmsweep-db-"))
        self.port = _free_port()
        # The servers refuse to run as root.
        self._as_user = {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
        self._as_user = self._as_user if os.geteuid() == 0 else {}
        if self._as_user:
            shutil.chown(self.folder, account, self._as_user["group"])
        self._process = None

    def with_password(self, password=PASSWORD):
        """The URL with a password."""
        return self.url.replace("@", f":{password}@")

    def start(self):
        """Start the server and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, cwd="/", **self._as_user)
        end = time.monotonic() + 60
        while True:
            try:
                self._ping()
            except sqlalchemy.exc.DBAPIError:
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.1)
            else:
                return

    def stop(self, how=signal.SIGTERM):
        """End the server, and with it all connections."""
        self._process.send_signal(how)
        self._process.wait(60)

    def close(self):
        """End the server and delete its files."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, statement):
        """Execute a statement; its rows, if it has some."""
        engine = sqlalchemy.create_engine(self.with_password(), poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement))
            return list(result) if result.returns_rows else []

    def _ping(self):
        self.run("SELECT 1")

    def _call(self, *command):
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._as_user)


class PostgreSQL(Server):
    """PostgreSQL as Debian packages it."""

    def __init__(self):
        super().__init__("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{DATABASE}"
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data = str(self.folder / "data")
        options = ["--auth=scram-sha-256", f"--pwfile={password}", f"--username={USER}", "--no-sync"]
        self._call(str(POSTGRESQL[-1].with_name("initdb")), *options, data)
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        self._server = [str(POSTGRESQL[-1]), "-D", data, *(word for setting in settings for word in ("-c", setting))]
        self._made = False
        self.start()

    def _command(self):
        return self._server

    def _ping(self):
        if not self._made:
            url = self.with_password().replace(f"/{DATABASE}", "/postgres")
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"CREATE DATABASE {DATABASE}"))
            self._made = True
        super()._ping()

    def stop(self, how=signal.SIGINT):
        """A fast shutdown: clients are disconnected."""
        super().stop(how)


class MariaDB(Server):
    """MariaDB as Debian packages it."""

    def __init__(self):
        super().__init__("mysql" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        self.url = f"mysql+pymysql://{USER}@127.0.0.1:{self.port}/{DATABASE}"
        data = f"--datadir={self.folder / 'data'}"
        self._call("mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal")
        init = self.folder / "init.sql"
        init.write_text(
            f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON {DATABASE}.* TO '{USER}'@'%';\n"
        )
        init.chmod(0o644)
        place = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder / 'socket'}"]
        self._server = ["mariadbd", "--no-defaults", data, *place, f"--pid-file={self.folder / 'pid'}"]
        self._server += [f"--init-file={init}", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]
        self.start()

    def _command(self):
        return self._server


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(name):
    """A server of this name, to be closed by the caller; skips the test where it is not installed."""
    if name == "PostgreSQL":
        pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
        if not POSTGRESQL:
            pytest.skip("PostgreSQL is not installed in /usr/lib/postgresql")
        return PostgreSQL()
    pytest.importorskip("pymysql", reason="the driver pymysql is not installed")
    if not all(map(shutil.which, ("mariadbd", "mariadb-install-db"))):
        pytest.skip("MariaDB is not installed")
    return MariaDB()

"""The token of a Ray cluster: `lmsweep cluster-token` makes it, and says how to start a cluster that demands it.

Whoever can connect to a Ray cluster can run any code on it, and `ray start` asks nobody for a token unless
RAY_AUTH_MODE=token. See docs/howto/cluster-by-hand.md.
"""

import shlex
import socket
import sys
from collections.abc import Sequence

from lmcore.errors import InputError, OneLineParser, print_error
from sweeps.cli.supported import check_system
from sweeps.cluster.auth import find_token, make_token
from sweeps.cluster.token_check import admits

DESCRIPTION = """\
Make the token of a Ray cluster, once, and print the commands that start a cluster which demands it.

With --check: find out whether a running cluster demands a token and accepts ours.
"""
EXAMPLES = """\
examples:
  {prog} node7 node8
      make the token, and say how to copy it to two other nodes
  {prog} --check node1:6379
      ask a running cluster
"""
PORT = 6379
"""The port of the head's control service, unless `ray start --head` was given another."""


def main(argv: Sequence[str] | None = None, prog: str = "lmsweep cluster-token") -> int:
    """Run the command; returns its exit code: 0, 1 if the cluster is open or refuses us, 2 for wrong input."""
    p = OneLineParser(prog=prog, description=DESCRIPTION, epilog=EXAMPLES.format(prog=prog))
    p.add_argument("nodes", nargs="*", metavar="NODE", help="the other nodes, by the names that ssh knows")
    p.add_argument("--check", metavar="HOST:PORT", help="the head of a running cluster")
    options = p.parse_args(argv)
    try:
        check_system(prog)
        if options.check is not None:
            if options.nodes:
                raise InputError(f"--check: must come alone (got {' '.join(options.nodes)} as well); leave one out")
            return check(options.check)
        print(instructions(options.nodes), end="")
        return 0
    except InputError as error:
        print_error(error)
        return 2


def instructions(nodes: Sequence[str]) -> str:
    """Make the token unless there is one, and return where it is and how to use it."""
    path, created = make_token()
    where = shlex.quote(str(path))
    remote = "umask 077; mkdir -p ~/.ray; cat > ~/.ray/auth_token"
    head = shlex.quote(f"{socket.gethostname()}:{PORT}")
    copies = "".join(f"  ssh {shlex.quote(node)} '{remote}' < {where}\n" for node in nodes or ["NODE"])
    return (
        f"{path} {'now holds a new token' if created else 'holds the token'}, and only you can read it.\n\n"
        f"Copy it to every other node:\n{copies}\n"
        f"Start Ray on this node:\n  RAY_AUTH_MODE=token ray start --head\n\n"
        f"Start Ray on every other node:\n  RAY_AUTH_MODE=token ray start --address={head}\n\n"
        f"Check the cluster, and run a sweep from a folder that all nodes share:\n"
        f"  lmsweep cluster-token --check {head}\n  lmsweep run --address {head}\n"
    )


def check(address: str) -> int:
    """Print whether the cluster demands a token and accepts ours, one line each; 0 if both.

    Raises InputError if the address is not HOST:PORT or no cluster answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        rule = f"must be HOST:PORT of a cluster's head (got {address})"
        raise InputError(f"--check: {rule}; write for example node1:{PORT}")
    try:
        if admits(address, None):
            remedy = "stop it (`ray stop` on every node) and start it with RAY_AUTH_MODE=token"
            print(f"{address} is open: whoever reaches it can run code on it; {remedy}", file=sys.stderr)
            return 1
        print(f"{address} demands a token")
        token, source = find_token()
        if token and admits(address, token):
            print(f"{address} accepts the token in {source}")
            return 0
        problem = f"refuses the token in {source}" if token else f"was shown none: there is none in {source}"
        print(f"{address} {problem}; copy the head's ~/.ray/auth_token here", file=sys.stderr)
        return 1
    except ConnectionError as error:
        rule = f"must be the head of a running Ray cluster, got {address} ({error})"
        raise InputError(f"--check: {rule}; start one with RAY_AUTH_MODE=token ray start --head") from None


if __name__ == "__main__":
    sys.exit(main())

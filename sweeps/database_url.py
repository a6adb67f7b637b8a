"""Addresses of databases: what may be shown or kept of one, and from where it is meant.

Nothing is opened here, and Optuna is not loaded (`sweeps.storage`).
"""

import re
from pathlib import Path


def absolute_url(url: str | None) -> str | None:
    """`sqlite:///study.db` with the whole path; every other address as it is."""
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)((?!file(?::|%3A))[^/:?][^?]*)(\?.*)?", url or "")
    return f"{found[1]}{Path(found[2]).absolute()}{found[3] or ''}" if found else url


def without_password(url: str) -> str:
    """The URL as it may be shown: `***` in place of a password; otherwise, or if it is no URL, as it is."""
    return _rendered(url, "***").replace("%2A%2A%2A", "***")


def password_left_out(url: str | None) -> str | None:
    """The URL as it may be kept, to be used again: a password is gone from it."""
    return None if url is None else _rendered(url, None)


def _rendered(url: str, password: str | None) -> str:
    from sqlalchemy.engine import URL, make_url  # takes a while, and most sweeps have no address
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url
    in_query = sorted({"password", "passwd"} & set(parsed.query))
    if parsed.password is None and not in_query:
        return url
    if parsed.password is not None:  # `set` takes None for `leave it as it is`
        place = (parsed.host, parsed.port, parsed.database, parsed.query)
        parsed = URL.create(parsed.drivername, parsed.username, password, *place)
    parsed = parsed.difference_update_query(in_query)
    if password is not None:
        parsed = parsed.update_query_dict(dict.fromkeys(in_query, password))
    return parsed.render_as_string(hide_password=False)

"""``python -m tests.campaign.unsynced serve …``: Teller that waits for no disk, to be caught."""

from __future__ import annotations

from service import sqlite
from service.cli import main

if __name__ == "__main__":
    vars(sqlite)["_WRITER"] = (*sqlite._WRITER, "synchronous = OFF")
    main()

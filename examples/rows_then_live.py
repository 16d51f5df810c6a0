"""Rows from a database, then live, without a seam: a client reads the rows, and from the hub what follows them.

DATABASE=trades.db uvicorn rows_then_live:app; docs/client.md has the client.
"""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI

from analytics_hub import Channel, Hub, Receipt, anonymous
from analytics_hub.transports.asgi import HubApp

database = sqlite3.connect(os.environ["DATABASE"], isolation_level=None)  # each statement commits
hub = Hub([Channel("trades")], authenticate=anonymous)
lock = anyio.Lock()  # rows and position change together, so that they belong together when they are read
position: Receipt


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global position
    database.execute("CREATE TABLE IF NOT EXISTS trades (id INTEGER PRIMARY KEY, symbol TEXT)")
    async with hub:
        position = await hub.publish_confirmed("trades", None, type="start")  # below everything that will follow
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/hub", HubApp(hub))


@app.post("/trades", status_code=201)
async def book(symbol: str) -> None:
    global position
    async with lock:  # committed first: an item is never about a row that is not there
        row = database.execute("INSERT INTO trades (symbol) VALUES (?) RETURNING id, symbol", (symbol,)).fetchone()
        position = await hub.publish_confirmed("trades", row)


@app.get("/trades")
async def read() -> dict[str, object]:
    async with lock:
        rows = database.execute("SELECT id, symbol FROM trades ORDER BY id").fetchall()
        return {"rows": rows, "since": {"epoch": position.epoch, "seq": position.seq}}

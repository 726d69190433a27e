"""One interface to Milvus Lite in this process, a Milvus Lite server, and a Milvus server.

What a backend can do is probed when it is opened, not guessed from its address.
"""

from __future__ import annotations

import contextlib
import itertools
import logging.config
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import Fusion, MilvusSettings
from skillmatch_ray.errors import LockedError, MilvusError
from skillmatch_ray.files import owner_lock
from skillmatch_ray.index.filters import in_list
from skillmatch_ray.index.schema import BM25, KEY, VECTOR, WORDS, Column, Layout

METRIC: Final = "IP"
"""Inner product: document vectors have length 1, and Milvus Lite normalises every row of a cosine scan again."""

MAX_RESULTS: Final = 16_384
"""Rows that servers return at most for one search."""

RRF_K: Final = 60
WEIGHTS: Final = (0.7, 0.3)
FUSED_AT_LEAST: Final = 200
"""Rows of each ranking that are fused, however few are wanted."""

_DELETED_AT_ONCE = 1000
_STATE_TIMEOUT_S = 2.0
_PAGE_ROWS = 4000

IndexType = Literal["FLAT", "IVF_FLAT", "HNSW"]
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Capabilities:
    """What the backend behind an address can do.

    Attributes:
        version: as it names itself.
        lite: Milvus Lite, embedded or as a server.
        aliases: whether a release is switched by an alias.
    """

    version: str
    lite: bool
    aliases: bool


@dataclass(frozen=True)
class Hit:
    """One row that Milvus returned.

    Attributes:
        id: the freelancer.
        score: inner product with the query.
        fields: the columns asked for.
    """

    id: str
    score: float
    fields: Mapping[str, Any]


class Backend:
    """An open connection; use as a context manager.

    Args:
        settings: address, index and time limits.
        lite_path: directory of the embedded database (NAME.db), or None for a server at `settings.uri`.
        purpose: what the lock of an embedded database tells others about its owner.

    Raises:
        LockedError: if another process holds the embedded database; the message names it.
        MilvusError: if the server cannot be reached.
    """

    def __init__(self, settings: MilvusSettings, lite_path: Path | None = None, purpose: str = "searching") -> None:
        self.settings = settings
        self.lite_path = lite_path
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            if lite_path is not None:
                opening.enter_context(own_database(lite_path, purpose))
            self.client = self._connect()
            opening.callback(self._disconnect)
            self.capabilities = self._probe()
            self._resources = opening.pop_all()

    @property
    def place(self) -> str:
        """The database's path or the server's address, for messages."""
        return str(self.lite_path or self.settings.uri)

    def _connect(self) -> Any:
        with _log_handlers_kept():
            from pymilvus import MilvusClient

        # It logs a traceback for every failed call, also where the caller goes on; our errors tell what failed.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        token = os.environ.get(self.settings.token_env, "")
        try:
            return MilvusClient(self.place, token=token, timeout=self.settings.timeout_s, dedicated=True)
        except Exception as e:
            raise MilvusError(f"no Milvus at {self.place}: {e}. Start it, or correct milvus.uri.") from e

    def _disconnect(self) -> None:
        self.client.close()
        if self.lite_path is not None:
            # pymilvus leaves the embedded server, and with it the lock of the database, to the end of the process.
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(self.lite_path))

    def _probe(self) -> Capabilities:
        version = str(self._call("asked for its version", self.client.get_server_version))
        lite = version.startswith("milvus_lite")  # the full server of the PyPI package says v2.3.5-lite
        return Capabilities(version, lite, aliases=self._has_aliases())

    def _has_aliases(self) -> bool:
        try:
            self._call("asked for its aliases", self.client.list_aliases)
        except MilvusError:
            return False
        return True

    def close(self) -> None:
        """Let go of the connection, and of the embedded database; waits for its background index builds."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(
        self,
        action: str,
        call: Callable[..., ResultT],
        *args: Any,
        slow: bool = False,
        timeout_s: float | None = None,
        **kwargs: Any,
    ) -> ResultT:
        timeout = timeout_s or (self.settings.build_timeout_s if slow else self.settings.timeout_s)
        try:
            return call(*args, timeout=timeout, **kwargs)
        except Exception as e:
            raise MilvusError(f"Milvus at {self.place}, {action}, failed: {getattr(e, 'message', None) or e}") from e

    def _read(self, action: str, call: Callable[..., ResultT], collection_name: str, **options: Any) -> ResultT:
        """A call that needs a loaded collection; one that lost it with a restart of its server gets it back."""
        action = f"{action} {collection_name}"
        try:
            return self._call(action, call, collection_name, **options)
        except MilvusError:
            if not self._reloaded(collection_name):
                raise
            return self._call(action, call, collection_name, **options)

    def _reloaded(self, collection: str) -> bool:
        """Whether a collection had been let go of and is loaded again; a server that is gone is not waited for."""
        patience_s = min(_STATE_TIMEOUT_S, self.settings.timeout_s)
        try:
            found = self._call("asked for its state", self.client.get_load_state, collection, timeout_s=patience_s)
        except MilvusError:  # the call before has told what is wrong
            return False
        if found["state"].name != "NotLoad":
            return False
        self.load(collection)
        return True

    def create(self, collection: str, layout: Layout, rows: int) -> None:
        """Make an empty collection with its index; an index on a million existing rows outlives the connection.

        `rows` is how many are to come.
        """
        from pymilvus import MilvusClient

        schema = MilvusClient.create_schema(auto_id=False)
        for column in layout.columns:
            schema.add_field(**_field(column))
        if layout.bm25:
            schema.add_function(_bm25())
        index = MilvusClient.prepare_index_params()
        wanted = self.index_settings(rows)
        if self.capabilities.lite:
            # pymilvus sends each parameter by itself; Milvus Lite 3.2 reads only those below the key "params".
            wanted = {**wanted, "params": {"params": wanted["params"]}}
        index.add_index(VECTOR, **wanted)
        if layout.bm25:
            index.add_index(BM25, index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
        create = self.client.create_collection
        try:
            self._call(f"creating {collection}", create, collection, schema=schema, slow=True)
        except MilvusError as e:
            if layout.bm25:
                raise self._without_bm25() from e
            raise
        if layout.bm25 and not self._has_bm25(collection):
            raise self._without_bm25()
        # Waiting for an index of no rows costs half a second, and Milvus Lite logs that it cannot tell the time.
        create = self.client.create_index
        self._call(f"indexing {collection}", create, collection, index_params=index, sync=False, slow=True)
        # Milvus Lite builds its index while rows come in, but only of a loaded collection. A server that is
        # loaded hands rows over from growing to indexed segments while it answers, and misses some meanwhile.
        if self.capabilities.lite:
            self.load(collection)

    def _has_bm25(self, collection: str) -> bool:
        """Whether the collection really computes BM25 weights; an old server could have left the function out."""
        found = self._call(f"describing {collection}", self.client.describe_collection, collection)
        return any(BM25 in function.get("output_field_names", ()) for function in found.get("functions", ()))

    def _without_bm25(self) -> MilvusError:
        return MilvusError(
            f"Milvus at {self.place} (version {self.capabilities.version}) has no BM25: leave out milvus.bm25, or use "
            "Milvus Lite or a server since 2.5"
        )

    def index_settings(self, rows: int) -> dict[str, Any]:
        """Type, metric and parameters of the vector index for about so many rows."""
        kind = self.index_type(rows)
        build = {
            "FLAT": {},
            "IVF_FLAT": {"nlist": 1},
            "HNSW": {"M": self.settings.m, "efConstruction": self.settings.ef_construction},
        }
        return {"index_type": kind, "metric_type": METRIC, "params": build[kind]}

    def index_type(self, rows: int) -> IndexType:
        """Exact as long as that is affordable.

        On Milvus Lite 3 it always is: it masks its rows in Python whatever the index, so a graph saves nothing.
        Its FLAT copies every passing vector for each search; one inverted list of all rows is the scan that
        copies nothing. A server scans 100,000 rows of 384 dimensions in some 25 ms.
        """
        if self.capabilities.lite:
            return "IVF_FLAT"
        return "HNSW" if rows >= self.settings.exact_below_rows else "FLAT"

    def has(self, collection: str) -> bool:
        """Whether the collection exists."""
        return bool(self._call(f"looking for {collection}", self.client.has_collection, collection))

    def drop(self, collection: str) -> None:
        """Delete a collection; nothing happens where it does not exist."""
        self._call(f"dropping {collection}", self.client.drop_collection, collection, slow=True)

    def insert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add new rows. A failed call is repeated as an upsert, since some rows may have arrived."""
        try:
            self._call(f"inserting into {collection}", self.client.insert, collection, list(rows), slow=True)
        except MilvusError:
            self.upsert(collection, rows)

    def upsert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add or replace rows by key."""
        self._call(f"upserting into {collection}", self.client.upsert, collection, list(rows), slow=True)

    def delete(self, collection: str, ids: Sequence[str]) -> None:
        """Delete rows by key; unknown keys are ignored."""
        for start in range(0, len(ids), _DELETED_AT_ONCE):
            some = in_list(KEY, ids[start : start + _DELETED_AT_ONCE])
            self._read("deleting from", self.client.delete, collection, filter=some)

    def load(self, collection: str) -> None:
        """Make the collection searchable; needed after every opening."""
        self._call(f"loading {collection}", self.client.load_collection, collection, slow=True)

    def flush(self, collection: str) -> None:
        """Make segments of what was written."""
        self._call(f"flushing {collection}", self.client.flush, collection, slow=True)

    def pending_rows(self, collection: str) -> int:
        """Rows that the vector index does not cover yet (servers; Milvus Lite builds while it closes)."""
        found = self._call(f"describing {collection}", self.client.describe_index, collection, index_name=VECTOR)
        return int((found or {}).get("pending_index_rows", 0))

    def count(self, collection: str, expression: str = "", consistency: str = "Strong") -> int:
        """Rows that fulfil the expression; with "Strong", every acknowledged write included."""
        rows = self._read(
            "counting",
            self.client.query,
            collection,
            filter=expression,
            output_fields=["count(*)"],
            consistency_level=consistency,
            slow=True,
        )
        return int(rows[0]["count(*)"])

    def get(
        self, collection: str, ids: Sequence[str], fields: Sequence[str], consistency: str = "Strong"
    ) -> list[dict[str, Any]]:
        """Rows by key, in no order; unknown keys are left out."""
        if not ids:
            return []
        rows = self._read(
            "reading",
            self.client.query,
            collection,
            filter=in_list(KEY, ids),
            output_fields=list(fields),
            consistency_level=consistency,
        )
        return [dict(row) for row in rows]

    def rows(
        self, collection: str, fields: Sequence[str], expression: str = "", consistency: str = "Strong"
    ) -> Iterator[dict[str, Any]]:
        """Every row that fulfils the expression, once, in no order, page by page.

        pymilvus' own iterator pastes keys into an expression unescaped, so pages are cut by the first
        digits of the row hash instead.
        """
        digits = math.ceil(math.log(max(1, self.count(collection, expression, consistency) / _PAGE_ROWS), 16))
        condition = f"({expression}) and " if expression else ""
        for prefix in map("".join, itertools.product("0123456789abcdef", repeat=digits)):
            page = self._read(
                "reading",
                self.client.query,
                collection,
                filter=f'{condition}row_hash like "{prefix}%"',
                output_fields=list(fields),
                limit=MAX_RESULTS,
                consistency_level=consistency,
                slow=True,
            )
            yield from (dict(row) for row in page)

    def search(
        self,
        collection: str,
        vectors: NDArray[np.float32],
        expression: str,
        limit: int,
        parameters: Mapping[str, Any],
        fields: Sequence[str],
        **options: Any,
    ) -> list[list[Hit]]:
        """The best `limit` rows for each of (n, D) vectors, best first; `options` go to pymilvus as they are."""
        call = search_call(collection, vectors, expression, limit, parameters, fields)
        found = self._read("searching", self.client.search, **call, **options)
        return [[_hit(hit) for hit in hits] for hits in found]

    def fuse(
        self,
        collection: str,
        vector: NDArray[np.float32],
        words: str,
        *,
        fusion: Fusion,
        expression: str,
        limit: int,
        parameters: Mapping[str, Any],
        fields: Sequence[str],
    ) -> list[Hit]:
        """The best `limit` rows in the fused ranking of a (D,) vector and of words; scores are the fusion's own."""
        from pymilvus import AnnSearchRequest, RRFRanker, WeightedRanker

        depth = min(MAX_RESULTS, max(limit, FUSED_AT_LEAST))
        dense = {"metric_type": METRIC, "params": dict(parameters)}
        requests = [
            AnnSearchRequest(data=[vector], anns_field=VECTOR, param=dense, limit=depth, expr=expression),
            AnnSearchRequest(
                data=[words], anns_field=BM25, param={"metric_type": "BM25"}, limit=depth, expr=expression
            ),
        ]
        ranker = RRFRanker(RRF_K) if fusion == "rrf" else WeightedRanker(*WEIGHTS)
        (hits,) = self._read(
            "searching",
            self.client.hybrid_search,
            collection,
            reqs=requests,
            ranker=ranker,
            limit=limit,
            output_fields=_shown(fields),
        )
        return [_hit(hit) for hit in hits]

    def set_alias(self, alias: str, collection: str) -> None:
        """Point the alias to the collection, atomically.

        Raises:
            MilvusError: if the backend has no aliases.
        """
        if not self.capabilities.aliases:
            raise MilvusError(f"{self.place} (version {self.capabilities.version}) has no aliases: use a newer server")
        known = self.alias_target(alias) is not None
        call = self.client.alter_alias if known else self.client.create_alias
        self._call(f"pointing alias {alias} to {collection}", call, collection, alias)

    def alias_target(self, alias: str) -> str | None:
        """The collection behind an alias, or None."""
        known = self._call("listing aliases", self.client.list_aliases)["aliases"]
        if alias not in known:
            return None
        return str(self._call(f"looking for alias {alias}", self.client.describe_alias, alias)["collection_name"])

    def drop_alias(self, alias: str) -> None:
        """Remove an alias."""
        self._call(f"dropping alias {alias}", self.client.drop_alias, alias)


def _hit(hit: Any) -> Hit:
    # Milvus Lite calls the key by its name, server 2.3 calls it "id".
    return Hit(hit[KEY] if KEY in hit else hit["id"], hit["distance"], hit["entity"])


def _shown(fields: Sequence[str]) -> list[str]:
    """Columns to ask for; with none named, Milvus Lite returns all of them."""
    return list(fields) or [KEY]


def search_call(
    collection: str,
    vectors: NDArray[np.float32],
    expression: str,
    limit: int,
    parameters: Mapping[str, Any],
    fields: Sequence[str],
) -> dict[str, Any]:
    """Arguments of the one pymilvus search that a plan amounts to."""
    return {
        "collection_name": collection,
        "data": list(vectors),
        "anns_field": VECTOR,
        "filter": expression,
        "limit": limit,
        "search_params": {"metric_type": METRIC, "params": dict(parameters)},
        "output_fields": _shown(fields),
    }


@contextlib.contextmanager
def own_database(path: Path, purpose: str) -> Iterator[None]:
    """Hold an embedded database for this process.

    Raises:
        LockedError: if another owner holds it; the message names it.
    """
    try:
        with owner_lock(path.parent / "owner.lock", purpose):
            yield
    except LockedError as e:
        raise LockedError(
            f"{e} Milvus Lite has one owner at a time: go through the running server with --url http://HOST:PORT."
        ) from e


@contextlib.contextmanager
def _log_handlers_kept() -> Iterator[None]:
    """Import pymilvus in here: it calls `logging.config.dictConfig`, which closes every handler of the process.

    A replica of Ray Serve would log nothing more, and a new controller would take it for broken and replace it.
    """
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None  # noqa: ARG005
    try:
        yield
    finally:
        logging.config.dictConfig = configure


def _bm25() -> Any:
    from pymilvus import Function, FunctionType

    return Function(name=BM25, function_type=FunctionType.BM25, input_field_names=[WORDS], output_field_names=[BM25])


def _field(column: Column) -> dict[str, Any]:
    from pymilvus import DataType

    types = {
        "key": DataType.VARCHAR,
        "text": DataType.VARCHAR,
        "words": DataType.VARCHAR,
        "sparse": DataType.SPARSE_FLOAT_VECTOR,
        "vector": DataType.FLOAT_VECTOR,
        "bool": DataType.BOOL,
        "int8": DataType.INT8,
        "int64": DataType.INT64,
        "double": DataType.DOUBLE,
    }
    field: dict[str, Any] = {"field_name": column.name, "datatype": types[column.type]}
    if column.type in ("key", "text", "words"):
        field["max_length"] = column.size
    if column.type == "words":
        field["enable_analyzer"] = True
    if column.type == "vector":
        field["dim"] = column.size
    if column.name == KEY:
        field["is_primary"] = True
    return field

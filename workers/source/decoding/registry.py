"""A schema registry's client: schemas by id, GUID, or subject and version, each fetched once.

It speaks the HTTP interface of Confluent's registry, which Redpanda, Karapace and Apicurio offer, too. A call is tried once
and takes a few seconds at most: the worker's loop repeats the batch, with a backoff and a limit.
"""

import os
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

import httpx2
import orjson

from schemas.common import BadMessage
from workers.source.config import Registry
from workers.source.decoding.errors import RegistryDown

MAX_SCHEMAS = 1000
"""Schemas that are kept. An id never changes its schema, so none gets old."""
MAX_SCHEMA_BYTES = 1024 * 1024


class Reference(NamedTuple):
    """Another schema that a schema uses by `name`."""

    name: str
    subject: str
    version: int


class Schema(NamedTuple):
    """A schema as the registry has it: `kind` is AVRO, JSON or PROTOBUF (then the text is a descriptor in base64)."""

    kind: str
    text: str
    references: tuple[Reference, ...]


class RegistryClient:
    """Raises RegistryDown where the registry does not answer, and BadMessage for a schema that it does not have."""

    def __init__(self, registry: Registry) -> None:
        """The login is FACTSTREAM_REGISTRY_USERNAME and _PASSWORD."""
        user = os.environ.get("FACTSTREAM_REGISTRY_USERNAME")
        password = os.environ.get("FACTSTREAM_REGISTRY_PASSWORD", "")
        self._url = registry.url.rstrip("/")
        self._client = httpx2.Client(timeout=registry.timeout_s, auth=(user, password) if user else None)
        self.schema = lru_cache(MAX_SCHEMAS)(self._schema)
        self.version = lru_cache(MAX_SCHEMAS)(self._version)

    def close(self) -> None:
        self._client.close()

    def _schema(self, number: int | UUID) -> Schema:
        """The schema with an id or a GUID."""
        kind = "ids" if isinstance(number, int) else "guids"
        return self._get(f"/schemas/{kind}/{number}", "it")

    def _version(self, reference: Reference) -> Schema:
        """The schema that another one refers to."""
        path = f"/subjects/{quote(reference.subject, safe='')}/versions/{reference.version}"
        return self._get(path, f"the referenced schema {reference.name!r}")

    def _get(self, path: str, what: str) -> Schema:
        """Protobuf's is asked for again, as a descriptor: so no compiler of .proto files is needed."""
        schema = self._one(path, what)
        return self._one(path + "?format=serialized", what) if schema.kind == "PROTOBUF" else schema

    def _one(self, path: str, what: str) -> Schema:
        status, body = self._fetch(path)
        if status in (404, 422) and (b'"error_code"' in body or "/guids/" in path):  # old ones know no GUIDs
            raise BadMessage("unknown-schema", f"{what} is not in the registry {self._url}")
        if status in (401, 403):
            raise RegistryDown(
                f"the registry {self._url} refuses the login ({status}): "
                "FACTSTREAM_REGISTRY_USERNAME, FACTSTREAM_REGISTRY_PASSWORD"
            )
        if status != 200:
            raise RegistryDown(f"the registry {self._url} answers with status {status} to {path}")
        try:
            answer = orjson.loads(body)
            references = tuple(
                Reference(str(r["name"]), str(r["subject"]), int(r["version"]))
                for r in answer.get("references") or ()
            )
            return Schema(str(answer.get("schemaType") or "AVRO"), str(answer["schema"]), references)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RegistryDown(f"{self._url}{path} does not answer like a schema registry") from None

    def _fetch(self, path: str) -> tuple[int, bytes]:
        body = b""
        try:
            with self._client.stream("GET", self._url + path) as response:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_SCHEMA_BYTES:
                        raise BadMessage("too-large", f"a schema of more than {MAX_SCHEMA_BYTES} bytes")
                return response.status_code, body
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RegistryDown(
                f"the registry {self._url} does not answer: {type(error).__name__}: {error}"
            ) from None


def all_references(client: RegistryClient, schema: Schema) -> dict[str, Schema]:
    """Every schema that a schema uses, directly or not, by name; each comes after those that it uses itself."""
    found: dict[str, Schema] = {}
    _collect(client, schema, found, set())
    return found


def _collect(client: RegistryClient, schema: Schema, found: dict[str, Any], open_: set[str]) -> None:
    for reference in schema.references:
        if reference.name in found or reference.name in open_:
            continue
        if len(found) + len(open_) >= MAX_SCHEMAS:
            raise BadMessage("invalid-schema", f"a schema refers to more than {MAX_SCHEMAS} others")
        open_.add(reference.name)
        used = client.version(reference)
        _collect(client, used, found, open_)
        found[reference.name] = used

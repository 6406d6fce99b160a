"""A request's body to the items in it: bytes from end to end, never a path."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mmcl_fast.media.source import name_of
from mmcl_fast.serve.limits import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.requests import Request

LINES = "text"  # the field whose lines are items
RAW = "body"  # what an item without a name is called
PLAIN = (b"text/plain", b"text/markdown")
CURL = b"application/x-www-form-urlencoded"  # what curl says of every body, unless told
HOW = 'send a text as text/plain, or as JSON {"text": "..."}'


@dataclass(frozen=True)
class Item:
    """Something to predict.

    Attributes:
        name: stands for it in the answer; the client's word, opened by nobody.
        data: a file's bytes, or a text in UTF-8.
        modality: None: found from the content.
        given: the client said the modality, which then chooses prompts and gates.
    """

    name: str
    data: bytes
    modality: str | None = None
    given: bool = False


class Refused(Exception):
    """A request that is not served: its status and one line that says why and what to do."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


async def read(request: Request, limits: Limits) -> bytes:
    """All of the body; Refused before more than ``max_bytes`` are read, and where it comes too slowly."""
    headers = request.headers
    if int(headers.get("content-length", "0")) > limits.max_bytes:
        raise _too_large(limits)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "content-encoding: send the body as it is, not compressed")
    chunks: list[bytes] = []

    async def fill() -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.max_bytes:
                raise _too_large(limits)
            chunks.append(chunk)

    try:
        await asyncio.wait_for(fill(), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not come within {limits.body_seconds:g} s: send it again") from None
    return b"".join(chunks)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"a body of more than {limits.max_bytes} bytes: send less at once, or raise --max-bytes")


def items(body: bytes, content_type: str, modality: str | None, limits: Limits) -> list[Item]:
    """What is in a body: the files and lines of a form, the texts of a JSON object, or one item.

    A file's content says what it is, whatever the content type says. A text's content type is believed: its charset is
    decoded, and markup and tables are refused, since their signs would be scored as words.

    Args:
        modality: the client's word; None where there is none.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        found = _form(body, options.get(b"boundary", b""), modality, limits)
    elif kind.startswith(b"multipart/"):
        raise Refused(415, "content-type: a form is multipart/form-data")
    elif kind in PLAIN:
        text = _utf8(body, options.get(b"charset", b""))
        found = [Item(RAW, text, modality or "text", modality is not None)]
    elif _is_json(kind, body):
        found = _json(_json_value(body), modality, limits)
    elif kind == CURL and body.startswith(b"text="):
        found = _json(dict(_pairs(body)), modality, limits)
    elif _structured(kind, body):
        raise Refused(415, f"content-type {kind.decode('latin-1')[:99]!a}: its signs would be read as words; {HOW}")
    else:
        found = [Item(RAW, body, modality, modality is not None)]
    if not found or not body:
        raise Refused(400, f"nothing in the body: send a file, or lines in the field {LINES!r} of a form")
    return found


def _utf8(text: bytes, charset: bytes) -> bytes:
    """A text in the charset that its type names, in UTF-8; as it is where none is named."""
    name = charset.decode("latin-1").strip("\"' ").lower()
    if not name or name in ("utf-8", "utf8", "us-ascii"):
        return text
    try:
        return text.decode(name).encode()
    except LookupError:
        raise Refused(415, f"charset {name[:99]!a}: unknown; send the text in UTF-8") from None
    except UnicodeError:
        raise Refused(400, f"the text is not in the charset {name[:99]!a}: name the right one, or send UTF-8") from None


def _is_json(kind: bytes, body: bytes) -> bool:
    """Whether a body is JSON by its type, or by its content where curl was not told a type."""
    if kind == CURL and body.lstrip()[:1] == b"{":
        return isinstance(_json_value(body, strict=False), dict)
    return kind == b"application/json" or kind.endswith(b"+json")


def _json_value(body: bytes, strict: bool = True) -> object:
    """The body as JSON; where it is none, Refused, or None unless ``strict``."""
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        if not strict:
            return None
        raise Refused(400, f"the body is not JSON in UTF-8 ({str(fault)[:99]}): {HOW}") from None


def _pairs(body: bytes) -> list[tuple[str, str]]:
    """Fields of a form that is written like an address."""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError as fault:
        raise Refused(400, f"a form that is not {CURL.decode()} ({str(fault)[:99]}): {HOW}") from None


def _json(value: object, modality: str | None, limits: Limits) -> list[Item]:
    """The texts of ``{"text": "..."}`` or ``{"text": ["...", "..."]}``."""
    if not isinstance(value, dict) or "text" not in value:
        raise Refused(400, f"a JSON body is an object with the key 'text': {HOW}")
    for key in value:
        if key != "text":
            raise Refused(400, f"key {str(key)[:99]!a}: unknown; the rest goes into the address, as ?top_k=3")
    texts = value["text"] if isinstance(value["text"], list) else [value["text"]]
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "key 'text': give a string or a list of strings")
    if modality not in (None, "text"):
        raise Refused(400, f"modality {modality!r}: a JSON body holds texts; send a file as it is or in a form")
    if len(texts) > limits.max_items:
        raise _too_many(limits)
    # A lone surrogate has no UTF-8: decoding the item then says so.
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    if isinstance(value["text"], str):
        return [Item(RAW, data[0], "text", modality is not None)]
    return [Item(f"{LINES}:{number}", text, "text", modality is not None) for number, text in enumerate(data, 1)]


def _structured(kind: bytes, body: bytes) -> bool:
    """Whether a body is text by its type, but not plain words: markup, a table, a script."""
    named = kind.startswith(b"text/") or kind.endswith((b"xml", b"yaml", b"ndjson", b"jsonl", b"javascript", b"sql"))
    return named and b"\0" not in body[:4096]


def _form(body: bytes, boundary: bytes, modality: str | None, limits: Limits) -> list[Item]:
    told, found = modality is not None, list[Item]()
    for field, filename, data in _parts(body, boundary, limits):
        if filename:
            new = iter([Item(name_of(filename), data, modality, told)])
        elif filename == "":  # what a browser sends where no file was chosen
            new = iter([Item(field, data, modality, told)] if data else [])
        elif field == LINES:
            lines = ((number, line.strip()) for number, line in enumerate(io.BytesIO(data), 1))
            new = (Item(f"{LINES}:{number}", line, "text", told) for number, line in lines if line)
        else:
            raise Refused(
                400,
                f"field {name_of(field)[:99]!r}: unknown; send files with a file name, lines in the field {LINES!r}, "
                "and the rest in the address, as ?top_k=3",
            )
        found += islice(new, limits.max_items + 1 - len(found))
        if len(found) > limits.max_items:
            raise _too_many(limits)
    return found


def _too_many(limits: Limits) -> Refused:
    return Refused(413, f"more than {limits.max_items} items in a request: send them in several")


def _parts(body: bytes, boundary: bytes, limits: Limits) -> Iterator[tuple[str, str | None, bytes]]:
    """(field, file name or None, content) of each part."""
    if not boundary:
        raise Refused(400, "content-type: multipart/form-data without the boundary of its parts")
    headers: list[tuple[bytes, bytes]] = []
    name, value = bytearray(), bytearray()
    parts: list[tuple[list[tuple[bytes, bytes]], list[bytes]]] = []
    ended: list[bool] = []

    def begin() -> None:
        if len(parts) == 2 * limits.max_items:  # an empty part is no item
            raise _too_many(limits)
        headers.clear()

    def header() -> None:
        headers.append((bytes(name).lower(), bytes(value)))
        name.clear()
        value.clear()

    calls: MultipartCallbacks = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, end: name.extend(data[start:end]),
        "on_header_value": lambda data, start, end: value.extend(data[start:end]),
        "on_header_end": header,
        "on_headers_finished": lambda: parts.append((list(headers), [])),
        "on_part_data": lambda data, start, end: parts[-1][1].append(data[start:end]),
        "on_end": lambda: ended.append(True),
    }
    try:
        MultipartParser(boundary, calls).write(body)
    except FormParserError as fault:
        raise Refused(400, f"a form that is not multipart/form-data: {str(fault).splitlines()[0][:200]}") from None
    if not ended:
        raise Refused(400, "a form that ends before its last boundary: send all of it")
    for found, data in parts:
        _, options = parse_options_header(dict(found).get(b"content-disposition", b""))
        if b"name" not in options:
            raise Refused(400, "a part of the form has no name: give it one in its content-disposition")
        filename = options.get(b"filename")
        kind, told = parse_options_header(dict(found).get(b"content-type", b""))
        content = b"".join(data)
        if kind in PLAIN:
            content = _utf8(content, told.get(b"charset", b""))
        yield _words(options[b"name"]), None if filename is None else _words(filename), content


def _words(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")

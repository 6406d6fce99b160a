"""Find the items in a request's body. They stay bytes from end to end: no name in a request is opened as a path."""

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

TEXT_FIELD = "text"  # the field of a form or JSON object that holds texts
NAMELESS = "body"  # the name of an item without one
PLAIN_TYPES = (b"text/plain", b"text/markdown")
CURL_TYPE = b"application/x-www-form-urlencoded"  # curl gives this type to every body unless told otherwise
SEND_TEXT = 'send a text as text/plain, or as JSON {"text": "..."}'


@dataclass(frozen=True)
class Item:
    """One thing to predict.

    Attributes:
        name: what the answer calls it: a client's file name, never opened; "text:3" for a line; else "body".
        data: the bytes of a file, or a text in UTF-8.
        modality: None: found from the content.
        given: whether the client gave the modality, which then chooses prompts and gates.
    """

    name: str
    data: bytes
    modality: str | None = None
    given: bool = False


class RequestRefused(Exception):
    """A request that is not served.

    Args:
        status: the HTTP status of the answer.
        line: why, and what to do.
    """

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the whole body.

    Raises:
        RequestRefused: the body has more than ``max_bytes``, is compressed, or does not come in time. No more than
            ``max_bytes`` are kept.
    """
    headers = request.headers
    if int(headers.get("content-length", "0")) > limits.max_bytes:
        raise _too_large(limits)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestRefused(415, "content-encoding: send the body as it is, not compressed")
    chunks: list[bytes] = []

    async def read_chunks() -> None:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.max_bytes:
                raise _too_large(limits)
            chunks.append(chunk)

    try:
        await asyncio.wait_for(read_chunks(), limits.body_seconds)
    except TimeoutError:
        raise RequestRefused(408, f"the body did not come within {limits.body_seconds:g} s: send it again") from None
    return b"".join(chunks)


def _too_large(limits: Limits) -> RequestRefused:
    return RequestRefused(413, f"a body of more than {limits.max_bytes} bytes: send less at once, or raise --max-bytes")


def find_items(body: bytes, content_type: str, modality: str | None, limits: Limits) -> list[Item]:
    """Return the items of a body: the files and lines of a form, the texts of a JSON object, or one file or text.

    The content of a file says what the file is; its content type is ignored. The content type of a text counts: it
    names the charset. Markup and tables are refused, because their signs would be read as words.

    Args:
        body: the bytes.
        content_type: the request's header of this name, with its options; "" if there is none.
        modality: the modality that the client gave; None: found from the content.
        limits: ``max_items`` is the most items of a request.

    Raises:
        RequestRefused: the body is damaged, holds nothing or too much, or is of a type that is refused.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        found = _form_items(body, options.get(b"boundary", b""), modality, limits)
    elif kind.startswith(b"multipart/"):
        raise RequestRefused(415, "content-type: a form is multipart/form-data")
    elif kind in PLAIN_TYPES:
        text = _to_utf8(body, options.get(b"charset", b""))
        found = [Item(NAMELESS, text, modality or "text", modality is not None)]
    elif kind == b"application/json" or kind.endswith(b"+json"):
        found = _json_items(_parse_json(body), modality, limits)
    elif kind == CURL_TYPE and (value := _find_json_object(body)) is not None:
        found = _json_items(value, modality, limits)
    elif kind == CURL_TYPE and body.startswith(b"text="):
        found = _json_items(dict(_parse_fields(body)), modality, limits)
    elif _is_structured_text(kind, body):
        type_ = kind.decode("latin-1")[:99]
        raise RequestRefused(415, f"content-type {type_!a}: its signs would be read as words; {SEND_TEXT}")
    else:
        found = [Item(NAMELESS, body, modality, modality is not None)]
    if not found or not body:
        raise RequestRefused(400, f"nothing in the body: send a file, or lines in the field {TEXT_FIELD!r} of a form")
    return found


def _to_utf8(text: bytes, charset: bytes) -> bytes:
    """Return a text of the named charset in UTF-8. Without a charset it is returned as it is."""
    name = charset.decode("latin-1").strip("\"' ").lower()
    if not name or name in ("utf-8", "utf8", "us-ascii"):
        return text
    try:
        return text.decode(name).encode()
    except LookupError:
        raise RequestRefused(415, f"charset {name[:99]!a}: unknown; send the text in UTF-8") from None
    except UnicodeError:
        line = f"the text is not in the charset {name[:99]!a}: name the right one, or send UTF-8"
        raise RequestRefused(400, line) from None


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise RequestRefused(400, f"the body is not JSON in UTF-8 ({str(fault)[:99]}): {SEND_TEXT}") from None


def _find_json_object(body: bytes) -> dict[str, object] | None:
    """Return the JSON object that a body of no certain type is, or None. Other bodies may begin with { too."""
    if body.lstrip()[:1] != b"{":
        return None
    try:
        value = _parse_json(body)
    except RequestRefused:
        return None
    return value if isinstance(value, dict) else None


def _parse_fields(body: bytes) -> list[tuple[str, str]]:
    """Return (name, value) of the fields of an application/x-www-form-urlencoded body."""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=8)
    except ValueError as fault:
        line = f"a form that is not {CURL_TYPE.decode()} ({str(fault)[:99]}): {SEND_TEXT}"
        raise RequestRefused(400, line) from None


def _json_items(value: object, modality: str | None, limits: Limits) -> list[Item]:
    """Return the texts of ``{"text": "..."}`` or ``{"text": ["...", "..."]}``."""
    if not isinstance(value, dict) or TEXT_FIELD not in value:
        raise RequestRefused(400, f"a JSON body is an object with the key 'text': {SEND_TEXT}")
    for key in value:
        if key != TEXT_FIELD:
            raise RequestRefused(400, f"key {str(key)[:99]!a}: unknown; put options into the address, such as ?top_k=3")
    texts = value[TEXT_FIELD] if isinstance(value[TEXT_FIELD], list) else [value[TEXT_FIELD]]
    if not all(isinstance(text, str) for text in texts):
        raise RequestRefused(400, "key 'text': give a string or a list of strings")
    if modality not in (None, "text"):
        raise RequestRefused(400, f"modality {modality!r}: a JSON body holds texts; send a file as it is or in a form")
    if len(texts) > limits.max_items:
        raise _too_many(limits)
    # A lone surrogate has no UTF-8. It is passed on, so that decoding this item says so and the others are predicted.
    data = [text.encode("utf-8", "surrogatepass") for text in texts]
    if isinstance(value[TEXT_FIELD], str):
        return [Item(NAMELESS, data[0], "text", modality is not None)]
    return [Item(f"{TEXT_FIELD}:{number}", text, "text", modality is not None) for number, text in enumerate(data, 1)]


def _is_structured_text(kind: bytes, body: bytes) -> bool:
    """Return whether a body is text by its type, but not plain words: markup, a table, a script."""
    named = kind.startswith(b"text/") or kind.endswith((b"xml", b"yaml", b"ndjson", b"jsonl", b"javascript", b"sql"))
    return named and b"\0" not in body[:4096]  # a file of another kind, sent with a wrong type, is read as what it is


def _form_items(body: bytes, boundary: bytes, modality: str | None, limits: Limits) -> list[Item]:
    given, found = modality is not None, list[Item]()
    for field, filename, data in parse_form(body, boundary, limits):
        if filename:
            new = iter([Item(name_of(filename), data, modality, given)])
        elif filename == "":  # a browser sends this if no file was chosen
            new = iter([Item(field, data, modality, given)] if data else [])
        elif field == TEXT_FIELD:
            lines = ((number, line.strip()) for number, line in enumerate(io.BytesIO(data), 1))
            new = (Item(f"{TEXT_FIELD}:{number}", line, "text", given) for number, line in lines if line)
        else:
            raise RequestRefused(
                400,
                f"field {name_of(field)[:99]!r}: unknown; send files with a file name, lines in the field "
                f"{TEXT_FIELD!r}, and options in the address, such as ?top_k=3",
            )
        found += islice(new, limits.max_items + 1 - len(found))  # no more than show that there are too many
        if len(found) > limits.max_items:
            raise _too_many(limits)
    return found


def _too_many(limits: Limits) -> RequestRefused:
    return RequestRefused(413, f"more than {limits.max_items} items in a request: send several requests")


def parse_form(body: bytes, boundary: bytes, limits: Limits) -> Iterator[tuple[str, str | None, bytes]]:
    """Yield (field, file name or None, content) of each part of a multipart/form-data body. Raises RequestRefused."""
    if not boundary:
        raise RequestRefused(400, "content-type: multipart/form-data without the boundary of its parts")
    headers: list[tuple[bytes, bytes]] = []
    name, value = bytearray(), bytearray()
    parts: list[tuple[list[tuple[bytes, bytes]], list[bytes]]] = []
    ended: list[bool] = []

    def begin_part() -> None:
        if len(parts) == 2 * limits.max_items:  # empty parts are no items, but cost memory
            raise _too_many(limits)
        headers.clear()

    def end_header() -> None:
        headers.append((bytes(name).lower(), bytes(value)))
        name.clear()
        value.clear()

    callbacks: MultipartCallbacks = {
        "on_part_begin": begin_part,
        "on_header_field": lambda data, start, end: name.extend(data[start:end]),
        "on_header_value": lambda data, start, end: value.extend(data[start:end]),
        "on_header_end": end_header,
        "on_headers_finished": lambda: parts.append((list(headers), [])),
        "on_part_data": lambda data, start, end: parts[-1][1].append(data[start:end]),
        "on_end": lambda: ended.append(True),
    }
    try:
        MultipartParser(boundary, callbacks).write(body)
    except FormParserError as fault:
        reason = str(fault).splitlines()[0][:200]
        raise RequestRefused(400, f"a form that is not multipart/form-data: {reason}") from None
    if not ended:
        raise RequestRefused(400, "a form that ends before its last boundary: send all of it")
    for part_headers, chunks in parts:
        _, options = parse_options_header(dict(part_headers).get(b"content-disposition", b""))
        if b"name" not in options:
            raise RequestRefused(400, "a part of the form has no name: give it one in its content-disposition")
        filename = options.get(b"filename")
        kind, type_options = parse_options_header(dict(part_headers).get(b"content-type", b""))
        content = b"".join(chunks)
        if kind in PLAIN_TYPES:
            content = _to_utf8(content, type_options.get(b"charset", b""))
        yield _decode_name(options[b"name"]), None if filename is None else _decode_name(filename), content


def _decode_name(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")

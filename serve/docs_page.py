"""GET /docs: the API's document as a plain page. It loads nothing, so it reads the same on a machine without a network."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }} API</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, .route { font-family: ui-monospace, monospace; }
section { border-top: 1px solid #8884; padding: .5rem 0 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; overflow-wrap: anywhere; }
.verb { display: inline-block; min-width: 4.5rem; font-weight: 600; }
.required::after { content: " *"; color: #c33; }
</style>
</head>
<body>
<h1>{{ title }} {{ version }}</h1>
<p>{{ description }} The whole of it, for tools: <a href="/openapi.json">/openapi.json</a>. * required.</p>
{% for route in routes %}
<section id="{{ route.id }}">
<h2 class="route"><span class="verb">{{ route.verb }}</span> {{ route.path }}</h2>
<p>{{ route.text }}</p>
{% if route.fields %}<details><summary>{{ route.fields | length }} fields</summary>
<table>{% for field in route.fields %}
<tr><td><code{% if field.required %} class="required"{% endif %}>{{ field.name }}</code></td>
<td><code>{{ field.type }}</code></td><td>{{ field.where }}</td></tr>{% endfor %}
</table></details>{% endif %}
</section>
{% endfor %}
</body>
</html>
"""

_TEMPLATE = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    document = request.app.openapi()
    info = document["info"]
    page = _TEMPLATE.render(
        title=info["title"], version=info["version"], description=info["description"], routes=routes(document)
    )
    return HTMLResponse(page)


def routes(document: dict[str, Any]) -> list[dict[str, Any]]:
    """What the page shows of an OpenAPI document: each route with its fields, in the document's order."""
    return [
        {
            "id": route["operationId"],
            "verb": verb.upper(),
            "path": path,
            "text": route.get("description") or route.get("summary", ""),
            "fields": [*_parameters(route), *_body(document, route)],
        }
        for path, verbs in document["paths"].items()
        for verb, route in verbs.items()
    ]


def _parameters(route: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": p["name"], "type": _type(p["schema"]), "where": p["in"], "required": p.get("required", False)}
        for p in route.get("parameters", ())
    ]


def _body(document: dict[str, Any], route: dict[str, Any]) -> list[dict[str, Any]]:
    contents = route.get("requestBody", {}).get("content", {})
    found = []
    for content in contents.values():
        name = content["schema"].get("$ref", "").rpartition("/")[2]
        schema = document["components"]["schemas"].get(name, content["schema"])
        required = schema.get("required", ())
        found += [
            {"name": key, "type": _type(value), "where": "body", "required": key in required}
            for key, value in schema.get("properties", {}).items()
        ]
    return found


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words: `integer 0-20`, `"a" | "b"`, `array of Message`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = dict.fromkeys(_type(item) for item in schema[key] if item.get("type") != "null")
            return " | ".join(kinds)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(map(repr, schema["enum"]))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    bounds = [schema.get(low, schema.get(other)) for low, other in _BOUNDS]
    kind = schema.get("type", "any")
    text = kind if isinstance(kind, str) else " | ".join(kind)
    return f"{text} {bounds[0]} to {bounds[1]}" if None not in bounds else text


_BOUNDS = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))

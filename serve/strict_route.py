"""Routes that refuse query parameters they do not know: ignored, such a parameter would seem to have worked."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from serve.errors import ApiError


class StrictRoute(APIRoute):
    """A route whose query parameters are those that its function declares; `metadata` may have keys in brackets."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, known = super().get_route_handler(), _query_names(self.dependant)

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _check(request, known)
            return await handle(request)

        return strict


def _check(request: Request, known: list[str]) -> None:
    for name in request.query_params:
        if name not in known and not ("metadata" in known and re.fullmatch(r"metadata\[.*\]", name, re.DOTALL)):
            text = f"unknown parameter '{name[:60]}'; known: {', '.join(known) or 'none'}"
            raise ApiError(400, text, param=name[:60], code="unknown_parameter")


def _query_names(dependant: Dependant) -> list[str]:
    own = [field.alias for field in dependant.query_params]
    return [*own, *(name for inner in dependant.dependencies for name in _query_names(inner))]

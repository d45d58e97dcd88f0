"""The application: which path leads where, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from draftgraph.engine.chat import has_template
from draftgraph.engine.engine import Engine
from draftgraph.server.asked import NAMES
from draftgraph.server.chat import chat_completions
from draftgraph.server.completions import completions
from draftgraph.server.door import Door
from draftgraph.server.errors import ApiError, as_api_error
from draftgraph.server.metrics import CONTENT_TYPE
from draftgraph.server.page import page_response
from draftgraph.server.service import Service
from draftgraph.server.tokens import detokenize, tokenize, tokenizer_info

Endpoint = Callable[[Request, Service], Awaitable[Response]]


def make_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    app = FastAPI(title="draftgraph", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    posts: dict[str, Endpoint] = {
        "/v1/chat/completions": chat_completions,
        "/v1/completions": completions,
        "/tokenize": tokenize,
        "/detokenize": detokenize,
    }
    gets: dict[str, Endpoint] = {
        "/v1/models": models,
        "/tokenizer_info": tokenizer_info,
        "/health": health,
        "/metrics": metrics,
        "/": page,
    }
    for method, endpoints in (("POST", posts), ("GET", gets)):
        for path, endpoint in endpoints.items():
            app.add_route(path, _answered(endpoint, service), methods=[method])
    app.add_route("/v1/models/{name:path}", _answered(model, service), methods=["GET"])
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(Door, service=service)
    return app


async def models(request: Request, service: Service) -> Response:
    return JSONResponse({"object": "list", "data": [_model(service)]})


async def model(request: Request, service: Service) -> Response:
    service.check_model(request.path_params["name"])
    return JSONResponse(_model(service))


async def health(request: Request, service: Service) -> Response:
    """200 while requests are taken, 503 while the server drains."""
    service.gate.refuse_draining()
    return JSONResponse({"status": "ok"})


async def metrics(request: Request, service: Service) -> Response:
    return Response(service.metrics.render(), media_type=CONTENT_TYPE)


async def page(request: Request, service: Service) -> Response:
    return page_response()


def _model(service: Service) -> dict[str, Any]:
    engine = service.engine
    return {
        "id": service.settings.model,
        "object": "model",
        "created": service.created,
        "owned_by": "draftgraph",
        "root": service.settings.model,
        "parent": None,
        "max_model_len": engine.target.context_window,
        "draftgraph": {
            "drafter": drafter_of(engine),
            "backend": engine.target.name,
            "has_chat_template": has_template(engine.tokenizer),
        },
    }


def drafter_of(engine: Engine) -> str:
    """What drafts, in words."""
    return engine.drafter.name if engine.drafter.model is None else "a draft model"


def _answered(endpoint: Endpoint, service: Service) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint whose errors are answers."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request, service)
        except Exception as error:
            failure = as_api_error(error, NAMES)
            request.state.told["error"] = failure.code or failure.status
            if failure.status == 500:
                service.log.failure(error, id=request.state.id)
            return error_response(failure)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    """A path or a method that there is not."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(ApiError(404, f"there is nothing at {request.url.path}", code="not_found"))
    return error_response(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))


def error_response(error: ApiError) -> Response:
    return JSONResponse(error.to_dict(), status_code=error.status, headers=dict(error.headers))

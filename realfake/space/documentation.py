"""The documentation of the plain HTTP routes: `/openapi.json`, and `/docs` for people.

It has the project's routes only, not Gradio's own 80. `/docs` needs no script, font or style from
another host.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from fastapi import Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute

from realfake import hub_api
from realfake.detector import Detector

_TEMPLATES = Path(__file__).parent / "templates"
_DESCRIPTION = (
    "Photograph or AI-generated? The probabilities are calibrated. A verdict is a reason to look "
    "closer, not proof."
)


def documentation_routes(documented: Sequence[APIRoute], title: str) -> list[APIRoute]:
    """Return the routes `/openapi.json` and `/docs`.

    Args:
        documented: The routes to describe.
        title: The heading.
    """
    schema = get_openapi(title=title, version="1", description=_DESCRIPTION, routes=documented)
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    page = environment.get_template("docs.html")

    async def openapi() -> JSONResponse:
        return JSONResponse(schema)

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page.render(schema=schema, address=str(request.base_url).rstrip("/")))

    return [
        APIRoute("/openapi.json", openapi, name="openapi", include_in_schema=False),
        APIRoute("/docs", docs, name="docs", include_in_schema=False),
    ]


def request_body() -> dict[str, Any]:
    """Return the description of the three forms of a request to `/predict`."""
    options = {
        "top_k": {
            "type": "integer",
            "minimum": 1,
            "default": hub_api.TOP_K,
            "description": "The number of classes in the answer.",
        },
        "function_to_apply": {
            "type": "string",
            "enum": list(hub_api.FUNCTIONS),
            "default": "softmax",
            "description": "The function of the logits that gives the scores.",
        },
    }
    file = {"type": "string", "format": "binary", "description": "The image file."}
    inputs = {"type": "string", "format": "byte", "description": "The image file in base64."}
    parameters = {"type": "object", "properties": options}
    form = _object(["file"], file=file, **options)
    body = _object(["inputs"], inputs=inputs, parameters=parameters)
    content = {"image/*": file, "multipart/form-data": form, "application/json": body}
    return {
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in content.items()},
        }
    }


def responses(detector: Detector) -> dict[int, dict[str, Any]]:
    """Return the description of the answers of `/predict`, by status."""
    names = [str(name) for name in detector.model.config.id2label.values()]
    row = _object(
        ["label", "score"], label={"type": "string", "enum": names}, score={"type": "number"}
    )
    error = _object(["error"], error={"type": "string"})
    problems = {
        400: "The request is not in one of the three forms",
        408: "The request arrived too slowly",
        413: "The image file is too large",
        415: "The content type is not read",
        422: "The file is not an image, or it is damaged, too small or too large in pixels",
        503: "Busy; see `Retry-After`",
    }
    answers = {
        200: ("The classes with their scores, the highest first", {"type": "array", "items": row})
    }
    answers |= {status: (message, error) for status, message in problems.items()}
    return {
        status: {"description": message, "content": {"application/json": {"schema": schema}}}
        for status, (message, schema) in answers.items()
    }


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}

"""The page at /docs: Swagger UI from a package with its files, so that a browser needs no other host."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

from serving.http.problems import ProblemError

# Scripts and requests of this service only: a token entered on the page cannot go elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kubehabit API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="page"><noscript>This page needs JavaScript; openapi.json holds the same.</noscript></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}


def add_docs(app: FastAPI) -> None:
    """Serve the page and its three files."""

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs/{name}", include_in_schema=False)
    def docs_file(name: str) -> Response:
        if name not in _TYPES:
            raise ProblemError(404, "There is nothing at this path. See /docs for what there is.")
        content = _START if name == "start.js" else (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=_TYPES[name], headers={"Cache-Control": "max-age=3600"})

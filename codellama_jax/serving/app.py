"""The server's application: the routes of all protocols, behind the checks that every request must pass."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.serving import chat, error_forms, fim, http, llama_cpp, ollama, openai, page, tabby
from codellama_jax.serving.api import Api
from codellama_jax.serving.guard import ClientGuard, SiteGuard
from codellama_jax.serving.http import ApiError
from codellama_jax.serving.request_log import RequestLog


def application(api: Api) -> Starlette:
    """The application of a served model. Its service must have been started."""

    async def live(request: Request) -> Response:
        """Whether the process works; a supervisor restarts it if not."""
        failed = api.service.failure is not None
        return http.json_response({"status": "failed" if failed else "ok"}, 500 if failed else 200)

    async def ready(request: Request) -> Response:
        """Whether requests should be sent here."""
        service = api.service
        is_ready = service.ready and not service.closing
        status = "ok" if is_ready else "shutting down" if service.closing else "loading"
        return http.json_response({"status": status}, 200 if is_ready else 503)

    routes = [
        *openai.routes(api),
        *chat.routes(api),
        *fim.routes(api),
        *llama_cpp.routes(api),
        *ollama.routes(api),
        *tabby.routes(api),
        *page.routes(api),
        api.metrics.route(),
        Route("/livez", live),
        Route("/readyz", ready),
    ]
    middleware = [Middleware(RequestLog, api=api), Middleware(SiteGuard, settings=api.settings)]
    if api.settings.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=api.settings.allowed_origins,
                allow_methods=("GET", "POST"),
                allow_headers=("*",),
                allow_private_network=True,
            )
        )
    middleware.append(Middleware(ClientGuard, settings=api.settings))
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={404: _missing, 405: _missing})
    app.router.redirect_slashes = False  # clients that post do not follow redirections
    return app


async def _missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    headers = getattr(error, "headers", None) or {}
    reason = f"only {headers['Allow']} is possible" if "Allow" in headers else "there is no such path"
    problem = ApiError(status, f"{request.method} {request.scope['path'][:200]}: {reason}")
    return http.json_response(error_forms.of_path(request.scope["path"])(problem), status, dict(headers))

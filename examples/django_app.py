"""Django: a project's `asgi.py` with the hub under /hub, and a sync view that publishes. In one file for brevity.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); uvicorn django_app:application
"""

import os
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from analytics_hub import Channel, Hub
from analytics_hub.auth import JWTAuthenticator
from analytics_hub.transports.asgi import HubApp

secret = os.environ["ANALYTICS_HUB_SECRET"]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=secret, ALLOWED_HOSTS=["127.0.0.1", "localhost"])
authenticate = JWTAuthenticator(secret, algorithms=["HS256"])
hub = Hub([Channel("trades", publishers=frozenset({"worker"}))], authenticate=authenticate)


def book(request: HttpRequest) -> JsonResponse:
    trade = {"symbol": request.GET["symbol"], "amount": 1_000_000}
    hub.publish("trades", trade)
    return JsonResponse(trade, status=201)


urlpatterns = [path("trades", book)]
django_app, hub_app = get_asgi_application(), HubApp(hub)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan" or scope["path"].startswith("/hub/"):  # Django itself has no lifespan
        scope["root_path"] = "/hub"
        await hub_app(scope, receive, send)
    else:
        await django_app(scope, receive, send)

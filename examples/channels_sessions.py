"""Django Channels and its sessions: SESSION_SECRET=$(openssl rand -hex 32) uvicorn channels_sessions:application"""

import os
from typing import Any

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import SessionMiddlewareStack
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import JsonResponse
from django.urls import path, re_path

from analytics_hub import Channel, Hub, Identity
from analytics_hub.auth import SessionAuthenticator
from analytics_hub.transports.asgi import HubApp

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=os.environ["SESSION_SECRET"], ALLOWED_HOSTS=["127.0.0.1"])
settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
settings.MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]


async def identify(scope: Any) -> Identity | None:  # AuthMiddlewareStack adds scope["user"]
    user = await scope["session"].aget("user")
    return Identity(id=user) if user else None


async def log(request: Any, way: str) -> JsonResponse:
    if way == "in":
        await request.session.aset("user", request.GET["user"])  # after you have checked the password
        return JsonResponse({})
    return JsonResponse({"ended": hub.revoke(await request.session.apop("user"))})  # async: it runs on the event loop


urlpatterns = [path("log<way>", log)]
hub_app = HubApp(hub := Hub([Channel("trades")], authenticate=SessionAuthenticator(identify)))
hub_routes: Any = re_path(r"^hub/", SessionMiddlewareStack(hub_app))
django_routes: Any = re_path(r"", get_asgi_application())
http = URLRouter([hub_routes, django_routes])
application = ProtocolTypeRouter({"lifespan": hub_app, "websocket": URLRouter([hub_routes]), "http": http})

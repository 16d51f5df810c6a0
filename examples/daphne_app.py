"""daphne, and `manage.py runserver` with it, have no lifespan, so the first request starts that of the application.

export ANALYTICS_HUB_SECRET=$(openssl rand -hex 32); daphne daphne_app:application
"""

import channels_app

from analytics_hub.transports.asgi import WithLifespan

application = WithLifespan(channels_app.application)

"""The client without I/O, clock or concurrency: subscriptions that outlive connections.

The caller reports what has happened (`connection_made`, `receive_message`, `connection_lost`, ...) together with the
time (`now`, monotonic seconds), and fetches what to send (`data_to_send`) and what to tell the application (`events`).
Items go to the `SubscriptionState` that `subscribe` returned: one for each channel, as on the server.

**A slow reader** delays neither the connection nor the other subscriptions, and its memory is bounded by its buffer:
when the buffer is full, the client unsubscribes, and when half of it is free, it subscribes again `since` the same
position. What the channel has not kept in the meantime is reported by the server as a gap, so no loss goes unnoticed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ..exceptions import HubError, InvalidChannel, PermissionDenied, UnknownChannel, find_error
from ..protocol import CloseCode, Selection
from .backoff import Backoff, RetryDecision, token_fault
from .connection_state import ConnectionState, OnAnswer
from .decoding import JSON_CODEC, ChannelAnswer, Codec, ControlItem, DataItem
from .exceptions import ClientClosed, ConnectionClosed, TokenRefused
from .subscription_state import BUFFER, Options, SubscriptionState
from .text import printable
from .values import CommandFailed, Connected, Draining, Event, Resumed

MAX_CHANNELS: Final = 64
"""Channels in one command. A server allows as many as it allows subscriptions, 128 by default."""

MAX_UNSUBSCRIBING: Final = 256
"""Unanswered `unsubscribe` commands: a misbehaving server may send items of new channels without end."""

_ERRORS: Final = (UnknownChannel, PermissionDenied, InvalidChannel)


class ClientProtocol:
    """The state of a client. `jitter` returns random numbers from 0 to 1."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self.needs_token = False
        """The token expires soon: the caller must pass a new one to `refresh`."""
        self._backoff = Backoff(jitter)
        self._subscriptions: dict[str, SubscriptionState] = {}
        self._connection: ConnectionState | None = None
        self._events: list[Event] = []

    @property
    def is_open(self) -> bool:
        """Whether there is a connection on which the server has accepted the client."""
        return self._connection is not None and self._connection.is_open

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` would return something."""
        return self._connection is not None and bool(self._connection.outgoing)

    def data_to_send(self) -> list[str | bytes]:
        """The messages to write now, in order."""
        if self._connection is None:
            return []
        outgoing, self._connection.outgoing = self._connection.outgoing, []
        return outgoing

    def events(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    # --- subscriptions

    def subscribe(
        self, channel: str, options: Options, now: float, *, type: Any = Any, capacity: int = BUFFER
    ) -> SubscriptionState:
        """Subscribe to `channel`. Once the server has answered, the subscription is accepted or has an error.

        Raises `InvalidChannel` if there is a subscription already, `ValueError` for invalid options, and `TypeError`
        for a type that msgspec cannot decode to.
        """
        if channel in self._subscriptions:
            raise InvalidChannel(f"this client has subscribed to {channel!r} already; use that subscription")
        subscription = SubscriptionState(channel, options, capacity, type)
        _validate(subscription.selection())
        self._subscriptions[channel] = subscription
        self._send_subscribe([subscription], now)
        return subscription

    def unsubscribe(self, subscription: SubscriptionState, now: float) -> None:
        """End a subscription. Harmless if it has ended already."""
        channel = subscription.channel
        if self._subscriptions.get(channel) is not subscription:
            return
        del self._subscriptions[channel]
        if self._connection is not None and (subscription.is_live or subscription.command_id is not None):
            self._send_unsubscribe(self._connection, channel, now)
        subscription.end(ClientClosed(printable(f"the subscription to {channel!r} is closed")))

    def next_value(self, subscription: SubscriptionState, now: float) -> Any:
        """The next value of a subscription that has some; raises it if it is an exception."""
        value = subscription.pop()
        if subscription.can_resume:
            subscription.is_paused = False
            if self._subscriptions.get(subscription.channel) is subscription:
                self._send_subscribe([subscription], now)
        if isinstance(value, HubError):
            raise value
        return value

    def _send_subscribe(self, subscriptions: Iterable[SubscriptionState], now: float) -> None:
        connection = self._connection
        if connection is None or connection.subscribe_at is not None:
            return
        missing = [subscription for subscription in subscriptions if subscription.needs_subscribe]
        for start in range(0, len(missing), MAX_CHANNELS):
            some = missing[start : start + MAX_CHANNELS]
            selections = [subscription.selection() for subscription in some]
            id = connection.send_command(now, action="subscribe", channels=selections)
            connection.subscribing[id] = some
            for subscription in some:
                subscription.command_id = id

    def _send_unsubscribe(self, connection: ConnectionState, channel: str, now: float) -> None:
        connection.unsubscribing[connection.send_command(now, action="unsubscribe", channels=[channel])] = channel

    # --- a connection

    def connection_made(
        self, now: float, *, codec: Codec = JSON_CODEC, has_token: bool = True, token: str | None = None
    ) -> None:
        """A connection is open. `token` is sent as the first message; None if the handshake contained it."""
        self.needs_token = False
        self._connection = connection = ConnectionState(codec, has_token, now)
        if token is not None:
            connection.send_command(now, action="auth", token=token)
        elif not has_token:
            connection.send_command(now, action="ping")  # only an answer to a command reveals that a token is required
        self._send_subscribe(self._subscriptions.values(), now)

    def data_received(self, now: float) -> None:
        """Bytes have come, even if they are not a message: a ping of the WebSocket counts as a sign of life."""
        if self._connection is not None:
            self._connection.last_received = now

    def refresh(self, token: str | None, now: float, on_answer: OnAnswer | None = None) -> None:
        """Send a new token on the open connection; None if there is no newer one.

        `on_answer` is called with None, or with the error of the server. It is also called with None if the connection
        ends first, because the next connection starts with a new token.
        """
        self.needs_token = False
        if token is not None and self._connection is not None:
            id = self._connection.send_command(now, action="auth", token=token)
            self._connection.refreshing[id] = on_answer

    def get_timer(self) -> float | None:
        """When `handle_timer` must be called next; None without a connection."""
        return None if self._connection is None else self._connection.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`. Raises `ConnectionLost` if the server was silent for too long."""
        connection = self._connection
        if connection is None:
            return
        connection.handle_timer(now)
        if connection.subscribe_at is not None and now >= connection.subscribe_at:
            connection.subscribe_at = None
            self._send_subscribe(self._subscriptions.values(), now)

    # --- messages of the server

    def receive_message(self, message: str | bytes, now: float) -> None:
        """Process one message.

        Raises `NotAHub` if it cannot be decoded, and `ConnectionClosed` if the server requires a token and got none.
        """
        connection = self._connection
        assert connection is not None
        for item in connection.codec.decode_items(message):
            if isinstance(item, DataItem):
                subscription = self._receiver(connection, item.channel, now)
                if subscription is not None:
                    subscription.add_item(item, connection.codec)
            else:
                self._handle_control(connection, item, now)
        connection.frame_received(len(message), now)

    def _receiver(self, connection: ConnectionState, channel: str, now: float) -> SubscriptionState | None:
        """The subscription that can take an item of `channel` now. If there is none, the server is asked to stop."""
        subscription = self._subscriptions.get(channel)
        if subscription is not None and subscription.is_live:
            if not subscription.is_full:
                return subscription
            subscription.pause()
        # While a `subscribe` is unanswered, items that come belong to the subscription before it.
        is_pending = subscription is not None and subscription.command_id is not None
        unsubscribing = connection.unsubscribing
        if not is_pending and len(unsubscribing) < MAX_UNSUBSCRIBING and channel not in unsubscribing.values():
            self._send_unsubscribe(connection, channel, now)
        return None

    def _handle_control(self, connection: ConnectionState, item: ControlItem, now: float) -> None:
        match item.type:
            case "$hello":
                connection.is_open = True
                connection.heartbeat = item.heartbeat
                self._backoff.set_bounds(item.reconnect.min, item.reconnect.max)
                self._events.append(Connected(item.node))
            case "$subscribed":
                self._handle_subscribed(connection, item, now)
            case "$unsubscribed":
                if connection.unsubscribing.pop(item.id, None) is None:
                    self._handle_revoked(item)
            case "$gap":
                subscription = self._receiver(connection, item.channel, now)
                if subscription is not None:
                    subscription.add_gap(item)
            case "$error":
                self._handle_error(connection, item, now)
            case "$authenticated":
                on_answer = connection.refreshing.pop(item.id, None)
                if on_answer is not None:
                    on_answer(None)
            case "$expiring":
                self.needs_token = True
            case "$drain":
                delay = item.in_ or 0.0
                connection.reconnect_at = now + delay
                self._events.append(Draining(delay))

    def _handle_subscribed(self, connection: ConnectionState, item: ControlItem, now: float) -> None:
        answers = {answer.channel: answer for answer in item.channels}
        for subscription in connection.subscribing.pop(item.id, ()):
            answer = answers.get(subscription.channel)
            if answer is None or subscription.command_id != item.id:
                continue  # unsubscribed in the meantime
            if answer.ok:
                self._accept(subscription, answer)
            elif answer.code == "bad-request" and subscription.was_accepted and subscription.position is not None:
                subscription.restart()
                self._send_subscribe([subscription], now)
            else:
                self._end(subscription, _error(answer.code, answer.message))

    def _accept(self, subscription: SubscriptionState, answer: ChannelAnswer) -> None:
        before, was_paused = subscription.position, subscription.was_paused
        subscription.subscribed(answer)
        if before is not None and not was_paused:
            self._events.append(Resumed(subscription.channel, before, answer.recovered is True))

    def _handle_revoked(self, item: ControlItem) -> None:
        """The server has ended subscriptions of its own accord."""
        for answer in item.channels:
            subscription = self._subscriptions.get(answer.channel)
            if subscription is not None and subscription.is_live:
                message = printable(f"the server ended the subscription: {item.reason}")
                self._end(subscription, PermissionDenied(message))

    def _end(self, subscription: SubscriptionState, error: HubError) -> None:
        del self._subscriptions[subscription.channel]
        subscription.end(error)

    def _handle_error(self, connection: ConnectionState, item: ControlItem, now: float) -> None:
        error = _error(item.code, item.message)
        connection.min_delay = item.after or 0.0
        # An `unsubscribe` that failed is repeated when the next item of the channel comes.
        was_unsubscribe = connection.unsubscribing.pop(item.id, None) is not None
        subscriptions = [each for each in connection.subscribing.pop(item.id, ()) if each.command_id == item.id]
        on_answer = connection.refreshing.pop(item.id, None)
        if item.code == "unauthenticated" and not connection.is_open:
            if not connection.has_token:
                raise ConnectionClosed(CloseCode.UNAUTHENTICATED, "missing token")
        elif item.code == "rate-limited" and subscriptions:
            connection.subscribe_at = now + connection.min_delay
            for subscription in subscriptions:
                subscription.command_id = None
        elif item.code == "unknown-action":
            connection.supports_seen = False  # an older server, which knows all the other commands
        elif on_answer is not None:
            on_answer(error)
        elif len(subscriptions) > 1:  # repeat them one by one, to find those that the server refuses
            for subscription in subscriptions:
                subscription.command_id = None
                self._send_subscribe([subscription], now)
        elif subscriptions:
            self._end(subscriptions[0], error)
        elif not was_unsubscribe:
            self._events.append(CommandFailed(item.code, item.message))

    # --- the end of a connection

    def connection_closed(self, code: int, reason: str, now: float) -> RetryDecision:
        """The server closed the connection; 1006 if there was no close code."""
        slot, min_delay = self._discard_connection(now)
        return self._backoff.after_close(code, reason, slot=slot, at_least=min_delay)

    def handshake_refused(self, status: int, body: str, retry_after: float | None, now: float) -> RetryDecision:
        """The handshake was answered with an HTTP status other than 101."""
        self._discard_connection(now)
        return self._backoff.after_refusal(status, body, retry_after)

    def connection_lost(self, reason: str, now: float) -> RetryDecision:
        """The connection could not be established, or ended without a close code."""
        slot, _ = self._discard_connection(now)
        return self._backoff.after_loss(reason) if slot is None else RetryDecision(reason, slot)

    def close(self, error: HubError, now: float) -> None:
        """There will be no further connection: every subscription ends with `error`, after its values."""
        self._discard_connection(now)
        for subscription in list(self._subscriptions.values()):
            self._end(subscription, error)

    def _discard_connection(self, now: float) -> tuple[float | None, float]:
        """The delay in seconds that a `$drain` has assigned, if any, and the minimum that the server asked for."""
        connection, self._connection = self._connection, None
        if connection is None:
            return None, 0.0
        self._backoff.connection_ended(now - connection.started)
        for subscription in self._subscriptions.values():
            subscription.connection_lost()
        for on_answer in connection.refreshing.values():
            if on_answer is not None:
                on_answer(None)
        slot = None if connection.reconnect_at is None else max(0.0, connection.reconnect_at - now)
        return slot, connection.min_delay


def _validate(selection: dict[str, Any]) -> None:
    try:
        msgspec.json.decode(msgspec.json.encode(selection), type=Selection)
    except ValueError as error:
        raise ValueError(f"invalid subscription: {error}") from None


def _error(code: str, message: str) -> HubError:
    text = printable(f"{code}: {message}" if message else code)
    if code == "unauthenticated":
        return TokenRefused(text, token_fault(message))
    return find_error(code, _ERRORS)(text)

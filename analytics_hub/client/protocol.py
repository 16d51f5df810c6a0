"""The client without I/O, clock or concurrency: subscriptions that outlive connections.

It is told what happened (`connected`, `receive`, and how a connection ended) and what time it is (`now`, monotonic
seconds); what it wants sent waits in `data_to_send`, what its user should know in `events`. Items go to the `Feed`
that `subscribe` returned. There is one feed for each channel, because the server has one subscription for each.

**A reader that falls behind** holds up neither the connection nor the other feeds, and costs no memory beyond its
room: the server is asked to stop (`unsubscribe`), and to go on from there (`since`) when half of the room is free
again. What the channel does not keep until then is a gap that the server tells; nothing is lost in silence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ..exceptions import HubError, InvalidChannel, PermissionDenied, UnknownChannel
from ..protocol import CloseCode, Selection
from .backoff import Backoff, Ending, find_fault, printable
from .decoding import JSON_CODEC, Answer, Codec, Control, Data
from .exceptions import ClientClosed, Closed, TokenRefused
from .feed import ROOM, Feed, Options
from .link import Link
from .values import Complaint, Connected, Draining, Event, Resumed

AT_ONCE: Final = 64
"""Channels in one command; a server allows as many as it allows subscriptions, by default 128."""

MOST_LEAVING: Final = 256
"""Channels that the server is asked at a time to stop; one that sends what nobody has asked for names ever others."""

_REFUSALS: Final[dict[str, type[HubError]]] = {
    "unknown-channel": UnknownChannel,
    "forbidden": PermissionDenied,
    "bad-request": InvalidChannel,
}


class ClientProtocol:
    """What a client knows and decides. `jitter` gives random numbers from 0 to 1."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self.wants_token = False
        """The token runs out: a fresh one is to be given to `refresh`."""
        self._backoff = Backoff(jitter)
        self._feeds: dict[str, Feed] = {}
        self._link: Link | None = None
        self._events: list[Event] = []

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, and the server has let it in."""
        return self._link is not None and self._link.is_open

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` has something."""
        return self._link is not None and bool(self._link.outgoing)

    def data_to_send(self) -> list[str | bytes]:
        """The messages to write now, in order."""
        if self._link is None:
            return []
        outgoing, self._link.outgoing = self._link.outgoing, []
        return outgoing

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    # --- subscriptions

    def subscribe(self, channel: str, options: Options, now: float, *, type: Any = Any, room: int = ROOM) -> Feed:
        """A feed of `channel`, which has begun, or ended with an error, once the server has answered.

        Raises `InvalidChannel` if there is one already, `ValueError` for options that no server takes, and `TypeError`
        for a type that msgspec cannot decode to.
        """
        if channel in self._feeds:
            raise InvalidChannel(f"this client has subscribed to {channel!r} already; use that subscription")
        feed = Feed(channel, options, room, type)
        _check(feed.selection())
        self._feeds[channel] = feed
        self._ask([feed], now)
        return feed

    def unsubscribe(self, feed: Feed, now: float) -> None:
        """The reader has gone. Harmless if the feed has ended already."""
        if self._feeds.get(feed.channel) is not feed:
            return
        del self._feeds[feed.channel]
        if self._link is not None and (feed.is_live or feed.asked is not None):
            self._leave(self._link, feed.channel, now)
        feed.end(ClientClosed(printable(f"the subscription to {feed.channel!r} has been left")))

    def take(self, feed: Feed, now: float) -> Any:
        """The next value of a feed that has some; raises it if it is an exception."""
        value = feed.take()
        if feed.may_go_on:
            feed.is_paused = False
            if self._feeds.get(feed.channel) is feed:
                self._ask([feed], now)
        if isinstance(value, HubError):
            raise value
        return value

    def _ask(self, feeds: Iterable[Feed], now: float) -> None:
        link = self._link
        if link is None or link.ask_again is not None:
            return
        wanted = [feed for feed in feeds if feed.wants_server]
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            id = link.send(now, action="subscribe", channels=[feed.selection() for feed in some])
            link.asked[id] = some
            for feed in some:
                feed.asked = id

    def _leave(self, link: Link, channel: str, now: float) -> None:
        link.leaving[link.send(now, action="unsubscribe", channels=[channel])] = channel

    # --- a connection

    def connected(
        self, now: float, *, codec: Codec = JSON_CODEC, has_token: bool = True, token: str | None = None
    ) -> None:
        """A connection is open. `token` is to be its first message, where the handshake did not have one."""
        self.wants_token = False
        self._link = link = Link(codec, has_token, now)
        if token is not None:
            link.send(now, action="auth", token=token)
        elif not has_token:
            link.send(now, action="ping")  # a server that wants a token says so only when it is told something
        self._ask(self._feeds.values(), now)

    def heard(self, now: float) -> None:
        """Something has come, were it a ping of the transport's own."""
        if self._link is not None:
            self._link.heard = now

    def refresh(self, token: str | None, now: float, done: Callable[[HubError | None], None] | None = None) -> None:
        """Hand a fresh token to the living connection; None where there is no fresher one.

        `done` is called with what the server answers, None if it agrees; also when the connection ends before, for
        the next one begins with a fresh token.
        """
        self.wants_token = False
        if token is not None and self._link is not None:
            self._link.refreshing[self._link.send(now, action="auth", token=token)] = done

    def get_timer(self) -> float | None:
        """When `handle_timer` is to be called next; None without a connection."""
        return None if self._link is None else self._link.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`. Raises `Lost` if the server has been silent for too long."""
        link = self._link
        if link is None:
            return
        link.handle_timer(now)
        if link.ask_again is not None and now >= link.ask_again:
            link.ask_again = None
            self._ask(self._feeds.values(), now)

    # --- what comes

    def receive(self, message: str | bytes, now: float) -> None:
        """One message of the server. Raises `NotAHub` if it is none, `Closed` if it wants a token and got none."""
        link = self._link
        assert link is not None
        for item in link.codec.read(message):
            if isinstance(item, Data):
                feed = self._listener(link, item.channel, now)
                if feed is not None:
                    feed.put_data(item, link.codec)
            else:
                self._control(link, item, now)
        link.count(len(message), now)

    def _listener(self, link: Link, channel: str, now: float) -> Feed | None:
        """The feed that takes what comes of a channel now. If nobody does, the server is asked to stop."""
        feed = self._feeds.get(channel)
        if feed is not None and feed.is_live:
            if not feed.is_full:
                return feed
            feed.pause()
        is_awaited = feed is not None and feed.asked is not None  # what still comes is of the time before
        if not is_awaited and len(link.leaving) < MOST_LEAVING and channel not in link.leaving.values():
            self._leave(link, channel, now)
        return None

    def _control(self, link: Link, item: Control, now: float) -> None:
        match item.type:
            case "$hello":
                link.is_open = True
                link.heartbeat = item.heartbeat
                self._backoff.announced(item.reconnect.min, item.reconnect.max)
                self._events.append(Connected(item.node))
            case "$subscribed":
                self._answered(link, item, now)
            case "$unsubscribed":
                if link.leaving.pop(item.id, None) is None:
                    self._ended(item)
            case "$gap":
                feed = self._listener(link, item.channel, now)
                if feed is not None:
                    feed.put_gap(item)
            case "$error":
                self._failed(link, item, now)
            case "$authenticated":
                done = link.refreshing.pop(item.id, None)
                if done is not None:
                    done(None)
            case "$expiring":
                self.wants_token = True
            case "$drain":
                link.slot = now + (item.in_ or 0.0)
                self._events.append(Draining(item.in_ or 0.0))

    def _answered(self, link: Link, item: Control, now: float) -> None:
        answers = {answer.channel: answer for answer in item.channels}
        for feed in link.asked.pop(item.id, ()):
            answer = answers.get(feed.channel)
            if answer is None or feed.asked != item.id:
                continue  # the reader has gone meanwhile
            if answer.ok:
                self._begin(feed, answer)
            elif answer.code == "bad-request" and feed.has_begun and feed.position is not None:
                feed.start_over()
                self._ask([feed], now)
            else:
                self._drop(feed, _refusal(answer.code, answer.message))

    def _begin(self, feed: Feed, answer: Answer) -> None:
        before, is_news = feed.position, not feed.was_paused
        feed.begin(answer)
        if before is not None and is_news:
            self._events.append(Resumed(feed.channel, before, answer.recovered is True))

    def _ended(self, item: Control) -> None:
        """The server has ended subscriptions that nobody asked it to end."""
        for answer in item.channels:
            feed = self._feeds.get(answer.channel)
            if feed is not None and feed.is_live:
                self._drop(feed, PermissionDenied(printable(f"the server ended the subscription: {item.reason}")))

    def _drop(self, feed: Feed, error: HubError) -> None:
        del self._feeds[feed.channel]
        feed.end(error)

    def _failed(self, link: Link, item: Control, now: float) -> None:
        error = _refusal(item.code, item.message)
        link.at_least = item.after or 0.0
        was_leaving = link.leaving.pop(item.id, None) is not None  # it is asked again if something comes
        feeds = [feed for feed in link.asked.pop(item.id, ()) if feed.asked == item.id]
        done = link.refreshing.pop(item.id, None)
        if item.code == "unauthenticated" and not link.is_open:
            if not link.has_token:
                raise Closed(CloseCode.UNAUTHENTICATED, "missing token")
        elif item.code == "rate-limited" and feeds:
            link.ask_again = now + link.at_least
            for feed in feeds:
                feed.asked = None
        elif item.code == "unknown-action":
            link.confirms = False  # an older server; it knows all that is sent but `seen`
        elif done is not None:
            done(error)
        elif len(feeds) > 1:  # one of them is to blame, and the others are not
            for feed in feeds:
                feed.asked = None
                self._ask([feed], now)
        elif feeds:
            self._drop(feeds[0], error)
        elif not was_leaving:
            self._events.append(Complaint(item.code, item.message))

    # --- how a connection ended

    def closed(self, code: int, reason: str, now: float) -> Ending:
        """With a close code; 1006 where none came."""
        slot, at_least = self._disconnect(now)
        return self._backoff.closed(code, reason, slot=slot, at_least=at_least)

    def refused(self, status: int, sentence: str, retry_after: float | None, now: float) -> Ending:
        """The handshake was answered with an HTTP status other than 101."""
        self._disconnect(now)
        return self._backoff.refused(status, sentence, retry_after)

    def lost(self, reason: str, now: float) -> Ending:
        """No connection came about, or it fell silent."""
        slot, _ = self._disconnect(now)
        return self._backoff.failed(reason) if slot is None else Ending(reason, slot)

    def give_up(self, error: HubError, now: float) -> None:
        """There will be no connection any more: every reader gets `error` after what has come before."""
        self._disconnect(now)
        for feed in list(self._feeds.values()):
            self._drop(feed, error)

    def _disconnect(self, now: float) -> tuple[float | None, float]:
        """Forget the connection but for when its server wants the client back: a slot in seconds, the least delay."""
        link, self._link = self._link, None
        if link is None:
            return None, 0.0
        self._backoff.lived(now - link.started)
        for feed in self._feeds.values():
            feed.disconnected()
        for done in link.refreshing.values():
            if done is not None:
                done(None)
        return None if link.slot is None else max(0.0, link.slot - now), link.at_least


def _check(selection: dict[str, Any]) -> None:
    try:
        msgspec.json.decode(msgspec.json.encode(selection), type=Selection)
    except ValueError as error:
        raise ValueError(f"this cannot be subscribed to: {error}") from None


def _refusal(code: str, message: str) -> HubError:
    sentence = printable(f"{code}: {message}" if message else code)
    if code == "unauthenticated":
        return TokenRefused(sentence, find_fault(message))
    return _REFUSALS.get(code, HubError)(sentence)

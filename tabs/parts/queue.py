"""Gradio's queue with places by visitor: nobody fills it for the others, and nothing is begun for nobody.

    half open   a call was made and nobody has listened for its answer yet: few are kept, the oldest goes first
    waiting     somebody listens; among visitors who wait for the same, the one served longest ago comes first
    under way   until it is over, or the visitor is gone

A visitor is who signed in, or else a session of the page or of a client (tabs.parts.visitors); where many sessions come
from one address, that is bounded as well.
What is refused is told through the stream, in a sentence: clients put words of their own for every refusal of the call.
"""

import asyncio
import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any
from uuid import uuid4

from fastapi import HTTPException
from gradio.queueing import Event, Queue
from gradio.route_utils import get_fn
from gradio.server_messages import EventMessage, ProcessCompletedMessage

from tabs.parts.visitors import visitor_of

__all__ = ["VisitorQueue", "Places", "MAX_THREADS"]

# Threads for handlers. Those that wait for the device hold one each, and the quick ones must never wait for them.
MAX_THREADS = 160
DEVICE = "gpu"
# Calls that nobody has listened for: how many in all, and for how long one is kept.
HALF_OPEN, HALF_OPEN_S = 128, 30.0
# Messages that a listener has not taken: then it reads no more, and what makes them ends.
UNREAD = 200
# Refusals that a session has not listened to: from then on the call itself is refused.
REFUSALS = 8
SESSIONS = 2000
SLEEP_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Places:
    """How many calls may wait or be under way: of one visitor, from one address, of all."""

    visitor: int
    address: int
    all: int


ON_DEVICE = Places(visitor=4, address=32, all=64)
QUICK = Places(visitor=24, address=128, all=256)


class Mailbox(asyncio.Queue):
    """The messages for a session; `reads` counts how often somebody came for one, `readers` who is waiting now."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.readers = 0

    async def get(self) -> Any:
        self.reads += 1
        self.readers += 1
        try:
            return await super().get()
        finally:
            self.readers -= 1


@dataclass(kw_only=True)
class Ticket:
    """What is known of a call. reads: how often its mailbox had been read when it was made; heard: somebody has listened since."""

    event: Event
    address: str
    mailbox: Mailbox
    reads: int
    since: float
    heard: bool = False

    @property
    def on_device(self) -> bool:
        return self.event.concurrency_id == DEVICE

    @property
    def visitor(self) -> str:
        return visitor_of(self.event.session_hash, self.event.username)

    def is_heard(self) -> bool:
        self.heard = self.heard or self.mailbox.readers > 0 or self.mailbox.reads > self.reads
        return self.heard


class VisitorQueue(Queue):
    """Gradio's queue with places by visitor, in place of one of Gradio's own.

    on_gone: is told the session of every visitor who is gone.
    """

    def __init__(self, queue: Queue) -> None:
        # Not "live": Gradio would tell every one who waits of every one who comes and goes.
        super().__init__(
            live_updates=False, concurrency_count=queue.max_thread_count, update_intervals=1, max_size=None, blocks=queue.blocks,
            default_concurrency_limit=queue.default_concurrency_limit,
        )
        self.sleep_when_free, self.ANALYTICS_MAX_EVENTS = SLEEP_S, 64
        self.tickets: dict[str, Ticket] = {}
        # Which of how many it was that a visitor was served last; served longest ago first.
        self.served: OrderedDict[str, int] = OrderedDict()
        self.turns, self.looked = 0, 0.0
        self.on_gone: Callable[[str], None] = lambda session: None

    def compute_analytics_summary(self, records: Any) -> Any:
        """Nothing: Gradio would sum up the last 10,000 calls after every one, for a page that is closed here."""
        return self.cached_event_analytics_summary

    # --- coming

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        body.session_hash = body.session_hash or uuid4().hex
        fn, mailbox, address = get_fn(self.blocks, None, body), self._mailbox(body.session_hash), caller_address(request)
        if sentence := self._refusal(fn.concurrency_id == DEVICE, visitor_of(body.session_hash, username), address):
            return True, self._refused(Event(body.session_hash, fn, request, username), mailbox, sentence), "success"
        reads = mailbox.reads
        answer = await super().push(body, request, username)
        if answer[0] and (event := self.event_ids_to_events.get(str(answer[1]))):
            self.tickets[event._id] = Ticket(event=event, address=address, mailbox=mailbox, reads=reads, since=monotonic())
            self._keep_few_half_open()
        self._tidy()
        return answer

    def _mailbox(self, session: str) -> Mailbox:
        mailbox = self.pending_messages_per_session.get(session)
        if not isinstance(mailbox, Mailbox):
            mailbox = self.pending_messages_per_session[session] = Mailbox()  # type: ignore[assignment]
        return mailbox

    def _refusal(self, on_device: bool, visitor: str, address: str) -> str | None:
        """Why there is no place for one more of this visitor, in a sentence."""
        places = ON_DEVICE if on_device else QUICK
        mine = [ticket for ticket in self.tickets.values() if ticket.on_device == on_device]
        if sum(ticket.visitor == visitor for ticket in mine) >= places.visitor:
            return f"You have {places.visitor} waiting or under way already: wait until one of them is over, or stop it."
        heard = [ticket for ticket in mine if ticket.is_heard()]
        if len(heard) >= places.all:
            return f"The queue is full: {len(heard)} are waiting. Try again in a little while."
        if (near := sum(ticket.address == address for ticket in heard)) >= places.address:
            return f"The queue has no more places for your network: {near} from it are waiting, {len(heard)} in all. Try again in a little while."
        return None

    def _refused(self, event: Event, mailbox: Mailbox, sentence: str) -> str:
        """The name of an event that is over with this sentence. Who never listens is refused at the door."""
        if mailbox.qsize() >= REFUSALS and not mailbox.readers:
            raise HTTPException(status_code=429, detail=sentence)
        self._tell(event, mailbox, sentence)
        return event._id

    def _tell(self, event: Event, mailbox: Mailbox, sentence: str) -> None:
        self.pending_event_ids_session.setdefault(event.session_hash, set()).add(event._id)
        output: dict[str, Any] = {"error": sentence, "duration": 10, "visible": True, "title": "Error"}
        mailbox.put_nowait(ProcessCompletedMessage(output=output, title="Error", success=False, event_id=event._id))

    # --- waiting

    def get_events(self) -> Any:
        """Who is next, of those whose answer somebody waits for."""
        if monotonic() - self.looked > 0.5:
            self._drop_unheard()
        for concurrency_id, queue in self.event_queue_per_concurrency_id.items():
            free = queue.concurrency_limit is None or queue.current_concurrency < queue.concurrency_limit
            ready = [event for event in queue.queue if self._is_heard(event)] if free else []
            if ready:
                event = min(ready, key=lambda event: self.served.get(self.tickets[event._id].visitor, 0))
                queue.queue.remove(event)
                self._serve(self.tickets[event._id].visitor)
                return [event], False, concurrency_id
        return None

    def _is_heard(self, event: Event) -> bool:
        ticket = self.tickets.get(event._id)
        return ticket is not None and ticket.is_heard()

    def _serve(self, visitor: str) -> None:
        self.turns += 1
        self.served[visitor] = self.turns
        self.served.move_to_end(visitor)
        while len(self.served) > SESSIONS:
            self.served.popitem(last=False)

    def _half_open(self) -> list[Ticket]:
        waiting = {event._id for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue}
        return [ticket for name, ticket in self.tickets.items() if name in waiting and not ticket.is_heard()]

    def _keep_few_half_open(self) -> None:
        """The oldest goes, of the address that has most of them."""
        while len(half_open := self._half_open()) > HALF_OPEN:
            address, _ = Counter(ticket.address for ticket in half_open).most_common(1)[0]
            self._drop(next(ticket for ticket in half_open if ticket.address == address))

    def _drop_unheard(self) -> None:
        self.looked = monotonic()
        for ticket in self._half_open():
            if self.looked - ticket.since > HALF_OPEN_S:
                self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        event = ticket.event
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        self.tickets.pop(event._id, None)
        self._tell(event, ticket.mailbox, "Nobody listened for this, so it was not begun: ask again, and listen at once.")

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """Nothing is put by for nobody; who takes nothing any more is gone."""
        ticket = self.tickets.get(event._id)
        if ticket is None or not ticket.is_heard() or self.pending_messages_per_session.get(event.session_hash) is None:
            return
        if ticket.mailbox.qsize() > UNREAD:
            event.alive = False
            self.on_gone(event.session_hash)
        super().send_message(event, event_message)

    # --- going

    async def process_events(self, events: list[Event], *args: Any, **more: Any) -> None:
        try:
            await super().process_events(events, *args, **more)
        finally:
            for event in events:
                self.tickets.pop(event._id, None)

    async def remove_from_queue(self, event_id: str) -> None:
        await super().remove_from_queue(event_id)
        if event_id not in self.event_ids_to_events:
            self.tickets.pop(event_id, None)

    async def clean_events(self, *, session_hash: str | None = None, event_id: str | None = None) -> None:
        """The visitor is gone."""
        await super().clean_events(session_hash=session_hash, event_id=event_id)
        for name in [name for name, ticket in self.tickets.items() if name not in self.event_ids_to_events or not ticket.event.alive]:
            self.tickets.pop(name, None)
        if session_hash:
            self.on_gone(session_hash)

    def _tidy(self) -> None:
        """What Gradio keeps for sessions and events that nobody will come for."""
        for session in [session for session in self._too_many() if session not in self.pending_messages_per_session]:
            self.pending_event_ids_session.pop(session, None)
        if self.server_app is not None:
            self.server_app.iterators_to_reset &= set(self.event_ids_to_events)

    def _too_many(self) -> Iterator[str]:
        if len(self.pending_event_ids_session) > SESSIONS:
            yield from self.pending_event_ids_session


def caller_address(request: Any) -> str:
    """Where a call comes from: of an IPv6 address the network, as one holder has them all."""
    host = request.client.host if request is not None and request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host

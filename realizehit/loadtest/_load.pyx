# The load client: many WebSocket subscribers, and publishers, in one epoll loop without Python.
#
# Python sets up a fleet and reads its figures between runs. A run executes no Python code per message or connection.
# Sections:
#   1. the fleet        the interface for Python
#   2. the loop         timers and ready sockets
#   3. connections      connect, handshake, subscribe, leave
#   4. receiving        bytes -> frames -> checks and counts
#   5. publishing       the schedule, commands and requests, their answers

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy, strerror, strlen

from realizehit.loadtest._load_conn cimport (
    ACTIVE, ASKED, BY_CLOSE_FRAME, BY_ERROR, BY_PEER, BY_US, CONNECTING, HANDSHAKING, IDLE, JOINING, LEAVING, OPEN, OUT,
    PLANNED, Channel, Conn, Gone, Slot, Sub, Text,
)
from realizehit.loadtest._load_ledger cimport Counts, Ledger, Problem, example, fill_gap, gap, remark
from realizehit.loadtest._load_net cimport (
    RL_HAVE_EPOLL, rl_addr, rl_addr_set, rl_close, rl_connect, rl_epoll_create, rl_epoll_set, rl_epoll_wait, rl_event,
    rl_epoch, rl_event_in, rl_event_out, rl_event_tag, rl_find, rl_load, rl_no_port, rl_note_times, rl_now, rl_recv,
    rl_recv_at, rl_send, rl_socket_error,
    rl_store, rl_would_block,
)
from realizehit.loadtest._load_publisher cimport (
    C_API, C_BATCH, C_REDIS, OUT_ROOM, Publisher, http_answer, publisher_end, publisher_room, redis_answers,
    request_failed,
)
from realizehit.loadtest._load_wire cimport (
    HDR_SIZE, ID_SIZE, STAMP_AT, STAMP_SIZE, STAMP_TEXT, client_frame_head, frame_head, put_stamp, rl_hdr_index,
    rl_hex8, rl_put_decimal, rl_put_hex8, stamp_time,
)
from realizehit.engine.text cimport rh_id

HAVE_EPOLL = bool(RL_HAVE_EPOLL)
STAMPED_MIN = STAMP_SIZE + 2    # bytes of the shortest payload: the stamp as a JSON string

cdef enum:                      # the condition that ends a run
    C_TIME
    C_READY
    C_SENT
    C_DELIVERED

TIME = C_TIME
READY = C_READY
SENT = C_SENT
DELIVERED = C_DELIVERED

cdef enum:
    EVENTS = 512
    READ_SIZE = 256 * 1024      # bytes read from a socket at once
    FRAME_MAX = 16 << 20        # bytes of a frame; more is a protocol error
    SLICE_NS = 50000000         # time between two checks for signals
    LATE_NS = 10000000          # a message sent so long after its scheduled time counts as late
    STALL_NS = 5000000000       # outstanding messages count as lost after this time without progress
    IDLE_NS = 3000000000        # an HTTP connection idle for longer is replaced: the server may be about to close it
    CODES = 5000
    GONE = 16                   # subscriptions that are left at a time during churn
    BATCH_BYTES = 3 << 20       # bytes of a batch request
    HEAD_ROOM = 4096            # bytes kept free before its messages, for its head
    SLOT_BITS = 20


# --- 1. The fleet -----------------------------------------------------------------------------------------------------

cdef inline void await_next(Sub* sub) noexcept nogil:
    """Note which message a subscription that is being left expects, for when it is in force again."""
    if sub.next == 0:
        sub.next = sub.floor
        sub.unheard = True


cdef class Fleet:
    """Subscribers, and publishers, of one process, all driven by `run`.

    Args:
        address: numeric IP address and port of the server.
        channels: the name and the JSON text of the pattern of each channel; its number is its index.
        subscriptions: for each connection the numbers of its channels, without duplicates.
        path: target of the opening handshake.
        host: the handshake's ``Host``; by default made from the address.
        headers: further header lines of the handshake, names and values.
        sources: source addresses to connect from in turn; each has about 28,000 ports to one server.
        sent: the last sequence number published in each channel, unsigned 32-bit integers in a writable buffer. Several
            processes may share it if only one of them publishes to each channel. By default the fleet has its own.
        stamped: false to only count text messages, without checking them.
        max_pending: connections that may be between connect and ready at once.
        kernel_times: whether a latency counts from the sending of a message, not from its scheduled time, until this
            machine's kernel has it, not until this process reads it; for a process that has to wait for its core.

    Raises:
        NotImplementedError: this platform has no epoll.
        ValueError: an argument is wrong.

    Reentrancy:
        One thread; no method may be called during `run`.
    """

    cdef int epoll
    cdef bint stamped, running, kernel_times
    cdef int64_t epoch              # the wall clock less the monotonic one
    cdef rl_addr address
    cdef rl_addr* sources
    cdef uint32_t source_count
    cdef Channel* channels
    cdef uint32_t channel_count
    cdef Conn* conns
    cdef uint32_t conn_count
    cdef Sub* subs
    cdef uint32_t sub_count
    cdef uint32_t* sent
    cdef Py_buffer sent_buffer
    cdef bint sent_shared
    cdef list keep                  # bytes objects that the channels point into
    cdef list heads
    cdef bytes handshake_bytes, request_bytes, tail_bytes
    cdef Text handshake, request, tail      # the same, for the loop
    cdef char* buffer
    cdef size_t buffer_room
    cdef char* scratch
    cdef size_t scratch_room
    cdef Ledger ledger
    cdef Counts* n                  # of the ledger
    cdef uint32_t[CODES] codes
    # connecting
    cdef uint32_t* todo             # a ring of connections that wait to be opened
    cdef uint32_t todo_start, todo_count, pending, max_pending, ready_count, open_count
    cdef double connect_rate
    cdef int64_t connect_due
    # churn
    cdef double reconnect_rate, resubscribe_rate
    cdef int64_t reconnect_due, resubscribe_due
    cdef uint64_t chance
    cdef Gone[GONE] gone
    cdef uint32_t gone_turn
    # publishing
    cdef Publisher* publishers
    cdef uint32_t publisher_count
    cdef rl_addr publish_address
    cdef uint32_t* own              # the channels that this fleet publishes to, in turn
    cdef uint32_t own_count
    cdef bint scheduled
    cdef uint32_t round             # messages of all fleets between two of one channel; 0: this fleet publishes alone
    cdef double interval_ns         # between two messages; 0 if only outstanding messages limit the rate
    cdef int64_t start_ns
    cdef uint64_t turn, quota
    cdef uint32_t batch_max
    cdef Slot* slots
    cdef uint32_t* free_slots
    cdef uint32_t slot_count, free_count, schedules
    cdef int64_t progress_ns        # time of the last delivery
    cdef uint64_t complete          # the latest turn whose message all subscribers have
    cdef uint64_t overtaken         # its earlier value
    cdef int64_t overtaken_due      # when to compare the two
    cdef bint publisher_lost

    def __cinit__(self):
        self.epoll = -1
        self.n = &self.ledger.n

    def __init__(self, address, channels, subscriptions, *, str path="/ws", host=None, headers=(), sources=(),
                 sent=None, bint stamped=True, int max_pending=512, bint kernel_times=False):
        cdef uint32_t i, k, number
        cdef Channel* channel
        if self.epoll >= 0:
            raise RuntimeError("a fleet can be set up only once")
        if not RL_HAVE_EPOLL:
            raise NotImplementedError("the load client needs epoll, so it runs on Linux only")
        name, port = address
        if not rl_addr_set(&self.address, name.encode(), port):
            raise ValueError(f"{name!r} is not a numeric IP address")
        if host is None:
            host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        self.keep, self.heads = [], []
        self.handshake_bytes = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"{header_lines(headers)}\r\n"
        ).encode("latin-1")
        self.handshake = text_of(self.handshake_bytes)
        self.stamped = stamped
        self.kernel_times = kernel_times
        self.epoch = rl_epoch()
        self.max_pending = max(1, max_pending)
        self.chance = 0x9E3779B97F4A7C15
        self.channel_count = len(channels)
        self.conn_count = len(subscriptions)
        self.sub_count = sum(len(each) for each in subscriptions)
        self.source_count = len(sources)
        self.channels = <Channel*> zeroed(self.channel_count, sizeof(Channel))
        self.conns = <Conn*> zeroed(self.conn_count, sizeof(Conn))
        for i in range(self.conn_count):
            self.conns[i].fd = -1
        self.subs = <Sub*> zeroed(self.sub_count, sizeof(Sub))
        self.todo = <uint32_t*> zeroed(self.conn_count, sizeof(uint32_t))
        self.sources = <rl_addr*> zeroed(self.source_count, sizeof(rl_addr))
        for i, source in enumerate(sources):
            if not rl_addr_set(&self.sources[i], source.encode(), 0):
                raise ValueError(f"{source!r} is not a numeric IP address")
        for i, (channel_name, pattern) in enumerate(channels):
            self.keep.append((bytes(channel_name), bytes(pattern)))
            channel = &self.channels[i]
            rh_id(channel.id, <const uint8_t*> PyBytes_AS_STRING(self.keep[i][0]), len(channel_name))
            channel.pattern = PyBytes_AS_STRING(self.keep[i][1])
            channel.pattern_size = len(pattern)
        k = 0
        for i, wanted in enumerate(subscriptions):
            self.conns[i].first = k
            self.conns[i].count = len(wanted)
            last = -1
            for item in sorted(wanted):
                if not 0 <= item < self.channel_count or item == last:
                    raise ValueError(f"connection {i}: channel {item} does not exist or is listed twice")
                last = item
                number = item
                self.subs[k].channel = number
                k += 1
        if sent is None:
            self.sent = <uint32_t*> zeroed(self.channel_count, sizeof(uint32_t))
        else:
            PyObject_GetBuffer(sent, &self.sent_buffer, PyBUF_WRITABLE)
            self.sent_shared = True
            if self.sent_buffer.len < <Py_ssize_t> (self.channel_count * sizeof(uint32_t)):
                raise ValueError(f"sent has {self.sent_buffer.len} bytes, too few for {self.channel_count} channels")
            self.sent = <uint32_t*> self.sent_buffer.buf
        self.buffer_room = READ_SIZE + 65536
        self.buffer = <char*> zeroed(self.buffer_room, 1)
        self.epoll = rl_epoll_create()
        if self.epoll < 0:
            raise OSError(errno, strerror(errno).decode())

    def __dealloc__(self):
        self.shut()
        free(self.channels)
        free(self.conns)
        free(self.subs)
        free(self.todo)
        free(self.sources)
        free(self.buffer)
        free(self.scratch)
        free(self.publishers)
        free(self.own)
        free(self.slots)
        free(self.free_slots)
        if self.sent_shared:
            PyBuffer_Release(&self.sent_buffer)
        else:
            free(self.sent)

    def close(self):
        """End all connections at once; calling it again does nothing."""
        if self.running:
            raise RuntimeError("the fleet is running")
        self.shut()

    cdef void shut(self) noexcept:
        cdef uint32_t i
        if self.conns != NULL:
            for i in range(self.conn_count):
                if self.conns[i].fd >= 0:
                    self.end(i, BY_US)
        for i in range(self.publisher_count):
            publisher_end(&self.publishers[i])
            free(self.publishers[i].out)
            free(self.publishers[i].answers)
        self.publisher_count = 0
        if self.epoll >= 0:
            rl_close(self.epoll)
        self.epoll = -1

    def connect(self, double rate=0.0, uint32_t first=0, count=None, max_pending=None):
        """Plan connections. `run` opens them, performs the handshake and subscribes.

        Args:
            rate: connections per second; 0 for as fast as the server accepts them.
            first, count: which connections; all by default. Connected ones stay connected.
            max_pending: connections that may be between connect and ready at once, from now on.
        """
        cdef uint32_t i
        self.check()
        if max_pending is not None:
            self.max_pending = max(1, max_pending)
        self.connect_rate = rate
        self.connect_due = rl_now()
        for i in range(first, self.last(first, count)):
            if self.conns[i].state == IDLE:
                self.plan(i)

    def disconnect(self, uint32_t first=0, count=None):
        """End connections with a close frame, without waiting for the server's close frame."""
        cdef uint32_t i
        self.check()
        for i in range(first, self.last(first, count)):
            if self.conns[i].fd >= 0:
                self.end(i, BY_US)

    def churn(self, double reconnects=0.0, double resubscribes=0.0):
        """Reconnect and resubscribe at random during runs, at the given rates per second.

        A reconnect ends a ready connection and opens it again at once, or opens one that has ended. A resubscribe
        leaves one channel of one connection, and subscribes again to the one that was left sixteen turns before.
        """
        self.check()
        self.reconnect_rate, self.resubscribe_rate = reconnects, resubscribes
        self.reconnect_due = self.resubscribe_due = rl_now()

    def publish_over(self, int fd):
        """Publish with Redis commands on a socket that is connected and logged in; the fleet owns it from now on."""
        self.check()
        if self.publisher_count:
            raise RuntimeError("there is a publisher already")
        self.make_publishers(1, C_REDIS)
        self.publishers[0].fd = fd
        if rl_epoll_set(self.epoll, True, fd, <uint64_t> 1 << 32, False) < 0:
            raise OSError(errno, strerror(errno).decode())

    def publish_http(self, address, *, str path="/", host=None, headers=(), bint batch=False, int connections=8,
                     int batch_max=1000):
        """Publish with HTTP requests.

        Args:
            address: numeric IP address and port of the API.
            path: target of the requests.
            host: value of their ``Host``; by default made from the address.
            headers: further header lines, names and values.
            batch: whether a request carries all messages that are due, or only one.
            connections: number of connections; a channel always uses the same one, which keeps its messages in order.
            batch_max: the most messages in one request.
        """
        self.check()
        if self.publisher_count:
            raise RuntimeError("there is a publisher already")
        name, port = address
        if not rl_addr_set(&self.publish_address, name.encode(), port):
            raise ValueError(f"{name!r} is not a numeric IP address")
        if connections < 1 or batch_max < 1:
            raise ValueError("connections and batch_max must be at least 1")
        if host is None:
            host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        self.request_bytes = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{header_lines(headers)}"
            "Content-Length: "
        ).encode("latin-1")
        self.request = text_of(self.request_bytes)
        if self.request.size > HEAD_ROOM - 100:
            raise ValueError("path, host and headers are too long")
        self.batch_max = batch_max
        self.make_publishers(connections, C_BATCH if batch else C_API)

    def schedule(self, *, double rate=0.0, uint32_t outstanding=0, uint64_t messages=0, size_t payload_bytes=128,
                 channels=None, start=None, uint32_t total=0):
        """Set what the next runs publish, to the given channels in turn.

        Args:
            rate: messages per second, on a schedule that waits for nothing (open loop): a message that cannot be sent
                in time is sent later, and its latency still counts from the scheduled time. 0: as `outstanding` allows.
            outstanding: messages that may be in flight at once, 0 for any number. A message is in flight until every
                subscriber of this fleet has received or lost it; its latency counts from the time of sending.
            messages: how many to publish; 0 to continue until `unschedule`.
            payload_bytes: size of each payload, `STAMPED_MIN` at least.
            channels: numbers of the channels; all of them by default.
            start: when the schedule begins, as `time.monotonic()`; now by default.
            total: number of channels of a schedule that several fleets share, in the order of their numbers. The rate
                is that of all fleets together, and each message has the time of its channel's turn.
        """
        cdef uint32_t i
        cdef size_t body
        self.check()
        if not self.publisher_count:
            raise RuntimeError("there is no publisher; see publish_over and publish_http")
        if rate <= 0 and not outstanding:
            raise ValueError("give a rate, or a number of outstanding messages")
        if outstanding >= 1 << SLOT_BITS:
            raise ValueError(f"at most {(1 << SLOT_BITS) - 1} messages can be outstanding")
        if payload_bytes < STAMP_SIZE + 2 or payload_bytes > 1 << 20:
            raise ValueError(f"a payload has {STAMPED_MIN} to {1 << 20} bytes, not {payload_bytes}")
        numbers = list(range(self.channel_count)) if channels is None else list(channels)
        if not numbers or not all(0 <= each < self.channel_count for each in numbers):
            raise ValueError("channels must be numbers of channels, at least one")
        free(self.own)
        self.own = NULL
        self.own = <uint32_t*> zeroed(len(numbers), sizeof(uint32_t))
        self.own_count = len(numbers)
        for i, number in enumerate(numbers):
            self.own[i] = number
        self.heads = [b""] * self.channel_count
        kind = self.publishers[0].kind
        for number in set(numbers):
            name, pattern = self.keep[number]
            if kind == C_REDIS:
                head = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n\"" % (len(name), name, payload_bytes)
            else:
                head = b'{"pattern":%b,"payload":"' % pattern
                if kind == C_API:
                    body = len(head) - 1 + payload_bytes + 1
                    head = b"%b%d\r\n\r\n%b" % (self.request_bytes, body, head)
            self.heads[number] = head
            self.channels[<uint32_t> number].head = PyBytes_AS_STRING(head)
            self.channels[<uint32_t> number].head_size = len(head)
        self.tail_bytes = b"x" * (payload_bytes - STAMP_SIZE - 2) + (b'"\r\n' if kind == C_REDIS else b'"}')
        self.tail = text_of(self.tail_bytes)
        self.reset_slots(outstanding)
        self.round = total
        self.interval_ns = 1e9 / rate if rate > 0 else 0.0
        self.start_ns = rl_now() if start is None else <int64_t> (start * 1e9)
        self.turn = 0
        self.quota = messages
        self.progress_ns = rl_now()
        self.scheduled = True

    def unschedule(self):
        """Stop publishing."""
        self.check()
        self.scheduled = False

    def run(self, double seconds, int until=C_TIME, int64_t deliveries=0):
        """Drive everything, without the GIL.

        Args:
            seconds: the longest time to run.
            until: stop earlier, when all planned connections are ready or have failed (`READY`), when all scheduled
                messages are published and acknowledged (`SENT`), or when they are also delivered (`DELIVERED`: to the
                subscriptions of this fleet that were in force when they went out).
            deliveries: stop earlier, after so many deliveries since the fleet was made; 0 for no limit.

        Returns:
            Whether the condition was met; always true with `TIME` and no `deliveries`.

        Raises:
            ConnectionError: the connection to publish over ended.
            KeyboardInterrupt: as any signal handler may raise; the fleet can be run on.
        """
        cdef int64_t deadline, end
        cdef int result = 0
        self.check()
        self.running = True
        try:
            with nogil:
                deadline = rl_now() + <int64_t> (min(seconds, 1e9) * 1e9)
                while True:
                    end = min(deadline, rl_now() + SLICE_NS)
                    result = self.loop(end, until, deliveries)
                    if result or end == deadline:
                        break
                    with gil:
                        PyErr_CheckSignals()
        finally:
            self.running = False
        if result < 0:
            raise OSError(-result, f"epoll: {strerror(-result).decode()}")
        if self.publisher_lost:
            self.publisher_lost = False
            raise ConnectionError("the connection to publish over has ended")
        return bool(result) or (until == C_TIME and not deliveries)

    def missing(self):
        """Return how many messages the subscriptions in force still miss, without those counted as lost."""
        cdef uint32_t i
        cdef int64_t total = 0
        for i in range(self.sub_count):
            if self.subs[i].state == ACTIVE:
                total += self.behind(&self.subs[i])
        return total

    def give_up(self):
        """Count missing messages as lost, with examples; return their number.

        These are the `missing` messages, and those of subscriptions whose connection the server ended.
        """
        cdef uint32_t i, k
        cdef int64_t total = 0, behind
        cdef Sub* sub
        for i in range(self.conn_count):
            for k in range(self.conns[i].first, self.conns[i].first + self.conns[i].count):
                sub = &self.subs[k]
                behind = self.behind(sub)
                if behind > 0:
                    total += behind
                    example(&self.ledger, b"lost", i, sub.channel, sub.next if sub.next else sub.floor, 0)
                    sub.next = rl_load(&self.sent[sub.channel]) + 1
        self.n.lost += total
        return total

    def counts(self):
        """Return the figures so far; see `_load.pyi` for what each means."""
        cdef Counts* n = self.n
        cdef uint32_t i
        cdef int64_t active = 0
        for i in range(self.channel_count):
            active += self.channels[i].active
        return {
            "connections": self.open_count, "ready": self.ready_count, "pending": self.pending + self.todo_count,
            "subscriptions": active, "failed": n.failed, "dropped": n.dropped, "closed": n.closed,
            "protocol_errors": n.protocol_errors, "refused": n.refused, "pings": n.pings, "bytes_in": n.bytes_in,
            "expected": n.expected, "deliveries": n.deliveries, "lost": n.lost, "forgone": n.forgone,
            "duplicates": n.duplicates, "reordered": n.reordered, "unexpected": n.unexpected, "foreign": n.foreign,
            "published": n.published, "acknowledged": n.acknowledged, "heard": n.heard,
            "publish_errors": n.publish_errors, "outstanding": self.slot_count - self.free_count,
            "abandoned": n.abandoned, "late": n.late, "reconnects": n.reconnects, "resubscribes": n.resubscribes,
        }

    @property
    def deliveries(self):
        """Deliveries since the fleet was made."""
        return self.n.deliveries

    def close_codes(self):
        """Return how often the server closed connections with each code; 0 stands for a close frame without a code."""
        return {code: self.codes[code] for code in range(CODES) if self.codes[code]}

    def problems(self):
        """Return the first wrong deliveries: kind, connection, channel, expected number, received number."""
        cdef Problem* found = self.ledger.problems
        return [
            (found[i].kind.decode(), found[i].conn, found[i].channel, found[i].expected, found[i].got)
            for i in range(self.ledger.problem_count)
        ]

    def notes(self):
        """Return the first other faults as text: refusals, failed connections, errors."""
        return [self.ledger.notes[i].decode("utf-8", "replace") for i in range(self.ledger.note_count)]

    def take_latencies(self):
        """Return the latencies since the last call, in microseconds, and reset them; see `_load.pyi` for the layout."""
        return take(self.ledger.latencies)

    def take_joins(self):
        """Return the times of connections from connect to ready, as `take_latencies`."""
        return take(self.ledger.joins)

    def take_lags(self):
        """Return how late messages were sent, as `take_latencies`."""
        return take(self.ledger.lags)

    cdef int check(self) except -1:
        if self.running:
            raise RuntimeError("the fleet is running")
        if self.epoll < 0:
            raise RuntimeError("the fleet is closed")
        return 0

    cdef uint32_t last(self, uint32_t first, count) except? 0:
        if count is None:
            return self.conn_count
        return <uint32_t> min(<int64_t> self.conn_count, <int64_t> first + <int64_t> count)

    cdef int make_publishers(self, int count, int kind) except -1:
        cdef int i
        free(self.publishers)
        self.publishers = <Publisher*> zeroed(count, sizeof(Publisher))
        self.publisher_count = count
        for i in range(count):
            self.publishers[i].fd = -1
            self.publishers[i].kind = kind
        return 0

    cdef int reset_slots(self, uint32_t count) except -1:
        cdef uint32_t i
        free(self.slots)
        free(self.free_slots)
        self.slots, self.free_slots = NULL, NULL
        self.slot_count = self.free_count = 0
        self.slots = <Slot*> zeroed(count, sizeof(Slot))
        self.free_slots = <uint32_t*> zeroed(count, sizeof(uint32_t))
        for i in range(count):
            self.free_slots[i] = count - 1 - i
            # A message of an earlier schedule must not count as one of this schedule.
            self.slots[i].generation = (self.schedules * 61) & ((1 << (32 - SLOT_BITS)) - 1)
        self.schedules += 1
        self.slot_count = self.free_count = count
        self.complete = self.overtaken = 0
        self.overtaken_due = rl_now() + STALL_NS
        return 0

    cdef int64_t behind(self, Sub* sub) noexcept nogil:
        cdef int64_t next
        if sub.state != ACTIVE and not sub.cut:
            return 0
        next = sub.next if sub.next else sub.floor
        return max(<int64_t> 0, <int64_t> rl_load(&self.sent[sub.channel]) + 1 - next)

    # --- 2. The loop --------------------------------------------------------------------------------------------------

    cdef int loop(self, int64_t deadline, int until, int64_t deliveries) noexcept nogil:
        """Run until `deadline`. Return 1 if the condition holds, 0 if time is up, -errno if epoll failed."""
        cdef rl_event events[EVENTS]
        cdef int64_t now, wake
        cdef uint64_t tag
        cdef int count, i
        while True:
            now = rl_now()
            if self.todo_count or self.reconnect_rate > 0 or self.resubscribe_rate > 0:
                self.come_and_go(now)
            if self.scheduled:
                self.publish(now)
            for i in range(<int> self.publisher_count):
                self.send_waiting(&self.publishers[i])
            if self.done(until, deliveries):
                return 1
            if now >= deadline:
                return 0
            wake = min(deadline, self.next_due(now))
            count = rl_epoll_wait(self.epoll, events, EVENTS, max(<int64_t> 0, wake - now))
            if count < 0:
                # EINTR: a signal, which the next slice handles.
                return 0 if errno == EINTR else -errno
            for i in range(count):
                tag = rl_event_tag(&events[i])
                if tag >> 32:
                    self.publisher_event(&self.publishers[<uint32_t> (tag >> 32) - 1], &events[i])
                else:
                    self.conn_event(<uint32_t> tag, &events[i])
            if self.publisher_lost:
                return 1

    cdef bint done(self, int until, int64_t deliveries) noexcept nogil:
        if deliveries and self.n.deliveries >= deliveries:
            return True
        if until == C_READY:
            return not self.todo_count and not self.pending
        if until >= C_SENT:
            if self.scheduled and not (self.quota and self.turn >= self.quota):
                return False
            if self.n.published > self.n.acknowledged + self.n.publish_errors:
                return False
            return until == C_SENT or self.n.deliveries + self.n.lost + self.n.forgone >= self.n.expected
        return False

    cdef int64_t next_due(self, int64_t now) noexcept nogil:
        """The time of the next timer."""
        cdef int64_t due = now + SLICE_NS
        if self.todo_count and self.pending < self.max_pending:
            due = min(due, self.connect_due if self.connect_rate > 0 else now)
        if self.reconnect_rate > 0:
            due = min(due, self.reconnect_due)
        if self.resubscribe_rate > 0:
            due = min(due, self.resubscribe_due)
        if self.scheduled and self.interval_ns > 0 and not self.blocked():
            if not self.quota or self.turn < self.quota:
                due = min(due, self.message_due())
        return due

    cdef void come_and_go(self, int64_t now) noexcept nogil:
        cdef uint32_t i, k
        cdef Conn* conn
        cdef Sub* sub
        cdef Gone* gone
        # Do not catch up after a stall: a burst would be a different load.
        self.reconnect_due = max(self.reconnect_due, now - SLICE_NS)
        self.resubscribe_due = max(self.resubscribe_due, now - SLICE_NS)
        while self.reconnect_rate > 0 and self.reconnect_due <= now:
            self.reconnect_due += <int64_t> (1e9 / self.reconnect_rate)
            i = self.pick(self.conn_count)
            if self.conns[i].state == OPEN:
                self.end(i, BY_US)
                self.plan(i)
                self.n.reconnects += 1
            elif self.conns[i].state == IDLE:
                self.plan(i)    # reconnecting failed, or the server ended it
        while self.resubscribe_rate > 0 and self.resubscribe_due <= now:
            self.resubscribe_due += <int64_t> (1e9 / self.resubscribe_rate)
            # Subscribe again to the one left a few turns ago: no message may have arrived for it in between.
            gone = &self.gone[self.gone_turn % GONE]
            if gone.count and self.subs[gone.sub].state == LEAVING:
                self.gone_turn += 1     # the server has not answered yet
                continue
            if gone.count:
                i, k = gone.conn, gone.sub
                if self.conns[i].state == OPEN and self.subs[k].state == OUT:
                    self.subs[k].state = ASKED
                    self.ask(i, k, k + 1, c's')
                    self.n.resubscribes += 1
            gone.count = 0
            i = self.pick(self.conn_count)
            conn = &self.conns[i]
            if conn.state == OPEN and conn.count:
                k = conn.first + self.pick(conn.count)
                sub = &self.subs[k]
                if sub.state == ACTIVE:
                    self.excuse(sub)
                    await_next(sub)
                    sub.floor = rl_load(&self.sent[sub.channel]) + 1
                    sub.state = LEAVING
                    self.channels[sub.channel].active -= 1
                    gone.conn, gone.sub, gone.count = i, k, 1
                    self.ask(i, k, k + 1, c'u')
            self.gone_turn += 1
        while self.todo_count and self.pending < self.max_pending:
            if self.connect_rate > 0:
                if self.connect_due > now:
                    break
                self.connect_due += <int64_t> (1e9 / self.connect_rate)
            i = self.todo[self.todo_start]
            self.todo_start = self.todo_start + 1 if self.todo_start + 1 < self.conn_count else 0
            self.todo_count -= 1
            self.open(i)

    cdef uint32_t pick(self, uint32_t below) noexcept nogil:
        """A random number below `below` (xorshift; Marsaglia 2003)."""
        self.chance ^= self.chance << 13
        self.chance ^= self.chance >> 7
        self.chance ^= self.chance << 17
        return <uint32_t> ((self.chance >> 33) % max(below, <uint32_t> 1))

    # --- 3. Connections -----------------------------------------------------------------------------------------------

    cdef void plan(self, uint32_t i) noexcept nogil:
        self.conns[i].state = PLANNED
        self.todo[(<uint64_t> self.todo_start + self.todo_count) % self.conn_count] = i
        self.todo_count += 1

    cdef void open(self, uint32_t i) noexcept nogil:
        cdef Conn* conn = &self.conns[i]
        cdef uint32_t tried = 0
        conn.state = CONNECTING
        conn.began = rl_now()
        self.pending += 1
        while True:
            conn.fd = rl_connect(
                &self.address, &self.sources[(i + conn.source) % self.source_count] if self.source_count else NULL
            )
            tried += 1
            if conn.fd >= 0 or not rl_no_port() or tried >= self.source_count:
                break
            conn.source += 1
        if conn.fd >= 0 and (rl_note_times(conn.fd) if self.kernel_times else 0) == 0 and rl_epoll_set(
                self.epoll, True, conn.fd, i, True) == 0:
            conn.armed = True
            return
        self.failed(i, b"connect", strerror(errno))

    cdef void failed(self, uint32_t i, const char* kind, const char* text) noexcept nogil:
        """Count a connection that failed."""
        self.n.failed += 1
        remark(&self.ledger, kind, text, strlen(text))
        self.end(i, BY_ERROR)

    cdef void end(self, uint32_t i, int why) noexcept nogil:
        """Close a connection and free what it holds."""
        cdef Conn* conn = &self.conns[i]
        cdef uint32_t k
        cdef char frame[8]
        if conn.state == CONNECTING or conn.state == HANDSHAKING or conn.state == JOINING:
            self.pending -= 1
        if conn.state == JOINING or conn.state == OPEN:
            self.open_count -= 1
            if why == BY_US:
                client_frame_head(frame, 8, 2)
                frame[6], frame[7] = 3, <char> 0xE8    # 1000, normal closure
                rl_send(conn.fd, frame, 8)
        if conn.state == OPEN:
            self.ready_count -= 1
        if why == BY_CLOSE_FRAME:
            self.n.closed += 1
        elif why == BY_PEER:
            self.n.dropped += 1
        for k in range(conn.first, conn.first + conn.count):
            self.part(i, &self.subs[k], why)
        if conn.fd >= 0:
            rl_close(conn.fd)
        free(conn.partial)
        free(conn.out)
        conn.fd = -1
        conn.state = IDLE
        conn.armed = False
        conn.waiting = 0
        conn.partial, conn.out = NULL, NULL
        conn.partial_size = conn.out_start = conn.out_end = 0

    cdef void part(self, uint32_t i, Sub* sub, int why) noexcept nogil:
        """Deactivate a subscription whose connection ends."""
        cdef Channel* channel = &self.channels[sub.channel]
        cdef bint in_force = sub.state == ACTIVE
        if in_force:
            channel.active -= 1
            self.excuse(sub)
            if why != BY_US:
                # Its position stays, until it is in force again or the test ends.
                sub.cut = True
                channel.cut += 1
                await_next(sub)
        if why == BY_US or not sub.cut:
            self.leave(i, sub)
        sub.state = OUT

    cdef void leave(self, uint32_t i, Sub* sub) noexcept nogil:
        """Forget a subscription. Its messages in flight count as forgone, because this side left."""
        cdef int64_t behind = self.behind(sub)
        if sub.state == LEAVING:
            self.n.forgone += max(<int64_t> 0, <int64_t> sub.floor - sub.next)
        elif not sub.cut:
            self.n.forgone += behind
        else:
            self.channels[sub.channel].cut -= 1
            self.n.lost += behind
            if behind:
                example(&self.ledger, b"lost", i, sub.channel, sub.next, 0)
        sub.cut = False
        sub.state = OUT
        sub.next = sub.floor = 0
        sub.unheard = False

    cdef void conn_event(self, uint32_t i, const rl_event* event) noexcept nogil:
        cdef Conn* conn = &self.conns[i]
        cdef int error
        if conn.fd < 0:
            return
        if rl_event_out(event):
            if conn.state == CONNECTING:
                error = rl_socket_error(conn.fd)
                if error:
                    self.failed(i, b"connect", strerror(error))
                    return
                conn.state = HANDSHAKING
                self.conn_send(i, self.handshake.at, self.handshake.size)
                if conn.fd < 0:
                    return
            if not self.conn_flush(i):
                return
        if rl_event_in(event):
            self.conn_read(i)

    cdef void conn_send(self, uint32_t i, const char* data, size_t size) noexcept nogil:
        """Send, or keep what the socket does not accept. Reading detects a failed connection."""
        cdef Conn* conn = &self.conns[i]
        cdef Py_ssize_t n = 0
        cdef char* moved
        if conn.out == NULL:
            n = rl_send(conn.fd, data, size)
            if n == <Py_ssize_t> size or (n < 0 and not rl_would_block()):
                return
            n = max(<Py_ssize_t> 0, n)
        moved = <char*> realloc(conn.out, conn.out_end + size - n)
        if moved == NULL:
            return
        conn.out = moved
        memcpy(moved + conn.out_end, data + n, size - n)
        conn.out_end += size - n
        if not conn.armed:
            rl_epoll_set(self.epoll, False, conn.fd, i, True)
            conn.armed = True

    cdef bint conn_flush(self, uint32_t i) noexcept nogil:
        """Send the kept bytes; return false if the connection has ended."""
        cdef Conn* conn = &self.conns[i]
        cdef Py_ssize_t n
        if conn.out != NULL:
            n = rl_send(conn.fd, conn.out + conn.out_start, conn.out_end - conn.out_start)
            if n < 0:
                return True
            conn.out_start += n
            if conn.out_start < conn.out_end:
                return True
            free(conn.out)
            conn.out = NULL
            conn.out_start = conn.out_end = 0
        if conn.armed and conn.state != CONNECTING:
            rl_epoll_set(self.epoll, False, conn.fd, i, False)
            conn.armed = False
        return True

    cdef void ask(self, uint32_t i, uint32_t start, uint32_t stop, char act) noexcept nogil:
        """Send the actions that subscribe to (`s`) or leave (`u`) the channels of some subscriptions.

        The request id is the act and the channel's number: `{"id":"s0000002a","act":"sub","pat":{…}}`.
        """
        cdef size_t size = 0, room, length
        cdef uint32_t k
        cdef Channel* channel
        cdef char* out
        cdef const char* word = b'","act":"sub","pat":' if act == c's' else b'","act":"unsub","pat":'
        cdef size_t word_size = strlen(word)
        for k in range(start, stop):
            size += 64 + self.channels[self.subs[k].channel].pattern_size
        if size > self.scratch_room:
            out = <char*> realloc(self.scratch, size)
            if out == NULL:
                return
            self.scratch, self.scratch_room = out, size
        room = 0
        for k in range(start, stop):
            channel = &self.channels[self.subs[k].channel]
            length = 17 + word_size + channel.pattern_size
            out = self.scratch + room
            out += client_frame_head(out, 1, length)
            memcpy(out, b'{"id":"', 7)
            out[7] = act
            rl_put_hex8(out + 8, self.subs[k].channel)
            memcpy(out + 16, word, word_size)
            memcpy(out + 16 + word_size, channel.pattern, channel.pattern_size)
            out[16 + word_size + channel.pattern_size] = c'}'
            room = out + length - self.scratch
        self.conn_send(i, self.scratch, room)

    cdef void ready(self, uint32_t i) noexcept nogil:
        cdef Conn* conn = &self.conns[i]
        conn.state = OPEN
        self.pending -= 1
        self.ready_count += 1
        self.ledger.joins[rl_hdr_index((rl_now() - conn.began) // 1000)] += 1

    # --- 4. Receiving -------------------------------------------------------------------------------------------------

    cdef void conn_read(self, uint32_t i) noexcept nogil:
        cdef Conn* conn = &self.conns[i]
        cdef size_t have = conn.partial_size, used = 0, size
        cdef Py_ssize_t n
        cdef int64_t at = 0
        cdef char* moved
        if have + READ_SIZE > self.buffer_room:
            moved = <char*> realloc(self.buffer, have + READ_SIZE)
            if moved == NULL:
                return
            self.buffer, self.buffer_room = moved, have + READ_SIZE
        if have:
            memcpy(self.buffer, conn.partial, have)
        if self.kernel_times:
            n = rl_recv_at(conn.fd, self.buffer + have, READ_SIZE, &at)
        else:
            n = rl_recv(conn.fd, self.buffer + have, READ_SIZE)
        if n <= 0:
            if n < 0 and rl_would_block():
                return
            if conn.state == HANDSHAKING or conn.state == CONNECTING:
                self.failed(i, b"handshake", why_ended(n))
            else:
                self.end(i, BY_PEER)
            return
        self.n.bytes_in += n
        size = have + n
        conn.partial_size = 0
        if conn.state == HANDSHAKING:
            used = self.accepted(i, self.buffer, size)
        if conn.state >= JOINING:
            used += self.frames(i, <uint8_t*> self.buffer + used, size - used, at - self.epoch if at else rl_now())
        if conn.fd < 0:
            return
        size -= used
        if size:
            moved = <char*> realloc(conn.partial, size)
            if moved == NULL:
                self.end(i, BY_ERROR)
                return
            conn.partial = moved
            memcpy(moved, self.buffer + used, size)
            conn.partial_size = size
        elif conn.partial != NULL:
            free(conn.partial)
            conn.partial = NULL

    cdef size_t accepted(self, uint32_t i, const char* p, size_t size) noexcept nogil:
        """Read the answer to the handshake. Return its size in bytes; 0 if it is incomplete or a refusal."""
        cdef Conn* conn = &self.conns[i]
        cdef const char* end = rl_find(p, size, b"\r\n\r\n")
        cdef const char* line
        cdef uint32_t k
        if end == NULL:
            if size > 16384:
                self.failed(i, b"handshake", b"the answer has no end")
            return 0
        if size < 12 or memcmp(p, b"HTTP/1.1 101", 12) != 0:
            line = <const char*> memchr(p, c'\r', size)
            self.n.failed += 1
            remark(&self.ledger, b"handshake refused", p, line - p)
            self.end(i, BY_ERROR)
            return 0
        if rl_find(p, end - p, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") == NULL:
            self.failed(i, b"handshake", b"Sec-WebSocket-Accept is wrong")
            return 0
        self.open_count += 1
        conn.state = JOINING
        conn.waiting = conn.count
        for k in range(conn.first, conn.first + conn.count):
            self.subs[k].state = ASKED
        if conn.count:
            self.ask(i, conn.first, conn.first + conn.count, c's')
        else:
            self.ready(i)
        return end + 4 - p

    cdef size_t frames(self, uint32_t i, uint8_t* p, size_t size, int64_t now) noexcept nogil:
        """Process the whole frames in `size` bytes; return their size in bytes."""
        cdef size_t used = 0, length = 0
        cdef int head
        while True:
            head = frame_head(p + used, size - used, &length)
            if head <= 0 or length > FRAME_MAX:
                if head < 0 or (head and length > FRAME_MAX):
                    self.n.protocol_errors += 1
                    remark(&self.ledger, b"protocol", b"a frame that no server of this kind sends", 41)
                    self.end(i, BY_ERROR)
                return used
            if size - used - head < length:
                return used
            if p[used] == 0x81:
                self.text(i, <const char*> p + used + head, length, now)
            else:
                self.control(i, p[used] & 15, p + used + head, length)
                if self.conns[i].fd < 0:
                    return used
            used += head + length

    cdef void control(self, uint32_t i, uint8_t opcode, const uint8_t* p, size_t size) noexcept nogil:
        cdef char frame[160]
        cdef size_t n
        cdef uint32_t code = 0
        if opcode == 9 and size <= 125:
            self.n.pings += 1
            n = client_frame_head(frame, 10, size)
            memcpy(frame + n, p, size)
            self.conn_send(i, frame, n + size)
        elif opcode == 8:
            if size >= 2:
                code = (<uint32_t> p[0] << 8) | p[1]
                n = client_frame_head(frame, 8, 2)
                memcpy(frame + n, p, 2)
                rl_send(self.conns[i].fd, frame, n + 2)
            if code < CODES:
                self.codes[code] += 1
            self.end(i, BY_CLOSE_FRAME)
        elif opcode != 10:
            self.n.protocol_errors += 1
            remark(&self.ledger, b"protocol", b"neither text nor a control frame", 32)
            self.end(i, BY_ERROR)

    cdef void text(self, uint32_t i, const char* p, size_t size, int64_t now) noexcept nogil:
        if size and p[0] == c'{':
            self.reply(i, p, size)
        elif not self.stamped:
            self.n.deliveries += 1
            self.progress_ns = now
        elif size < STAMP_TEXT or p[ID_SIZE] != c'?' or p[ID_SIZE + 1] != c'"':
            self.n.foreign += 1
        else:
            self.delivery(i, p, now)

    cdef void reply(self, uint32_t i, const char* p, size_t size) noexcept nogil:
        """Read the reply to one of our actions, `{"id":"s0000002a","ret":"…"}`."""
        cdef Conn* conn = &self.conns[i]
        cdef const char* id = rl_find(p, size, b'"id":"')
        cdef const char* error = rl_find(p, size, b'"err":')
        cdef Sub* sub = NULL
        if id != NULL and p + size - id >= 16:
            sub = self.find(conn, rl_hex8(id + 7))
        if error != NULL:
            self.n.refused += 1
            remark(&self.ledger, b"refused", p, size)
        if sub == NULL or (sub.state != ASKED and sub.state != LEAVING):
            if error == NULL:
                self.n.foreign += 1
            return
        if sub.state == LEAVING:
            self.leave(i, sub)
            return
        if error == NULL:
            if sub.cut:
                # Messages it missed meanwhile are a gap between the last and the next one.
                sub.cut = False
                self.channels[sub.channel].cut -= 1
            sub.state = ACTIVE
            sub.floor = rl_load(&self.sent[sub.channel]) + 1
            self.channels[sub.channel].active += 1
        else:
            sub.state = OUT
        if conn.state == JOINING:
            conn.waiting -= 1
            if not conn.waiting:
                self.ready(i)

    cdef Sub* find(self, Conn* conn, uint32_t channel) noexcept nogil:
        """The connection's subscription to a channel, or NULL."""
        cdef Sub* subs = self.subs + conn.first
        cdef uint32_t low = 0, high = conn.count, middle
        if conn.hint < conn.count and subs[conn.hint].channel == channel:
            return &subs[conn.hint]
        while low < high:
            middle = (low + high) >> 1
            if subs[middle].channel < channel:
                low = middle + 1
            else:
                high = middle
        if low == conn.count or subs[low].channel != channel:
            return NULL
        # Messages mostly come in turn: the next one is probably for the neighbour, or for this one again.
        conn.hint = low
        return &subs[low]

    cdef void delivery(self, uint32_t i, const char* p, int64_t now) noexcept nogil:
        """Compare a payload with the expected one, and count it."""
        cdef uint32_t channel = rl_hex8(p + STAMP_AT)
        cdef uint32_t number = rl_hex8(p + STAMP_AT + 8)
        cdef uint32_t expected
        cdef int64_t age
        cdef bint awaited = True    # whether it is an outstanding message of this subscriber
        cdef Sub* sub = self.find(&self.conns[i], channel)
        if sub == NULL or sub.state == OUT or memcmp(p, self.channels[channel].id, ID_SIZE) != 0:
            self.n.unexpected += 1
            example(&self.ledger, b"unexpected", i, channel, 0, number)
            return
        expected = sub.next if sub.next else sub.floor
        if number != sub.next and expected:
            if number > expected:
                self.n.lost += number - expected
                example(&self.ledger, b"lost", i, channel, expected, number)
                gap(&self.ledger, sub - self.subs, expected, number)
                self.missed(sub, expected, number)
            elif sub.next and not sub.unheard:
                if not fill_gap(&self.ledger, sub - self.subs, number):
                    self.n.duplicates += 1
                    example(&self.ledger, b"duplicate", i, channel, expected, number)
                    return
                awaited = False     # it was missed already
                self.n.lost -= 1
                self.n.reordered += 1
                example(&self.ledger, b"reordered", i, channel, expected, number)
        if number >= sub.next:
            sub.next = number + 1
            sub.unheard = False
        self.n.deliveries += 1
        self.progress_ns = now
        # A stamp may contain any number.
        age = <int64_t> (<uint64_t> now - <uint64_t> stamp_time(p + STAMP_AT))
        self.ledger.latencies[rl_hdr_index(age // 1000)] += 1
        if self.slot_count and awaited and sub.state == ACTIVE and number >= sub.floor:
            self.arrived(rl_hex8(p + STAMP_AT + 32))

    cdef void arrived(self, uint32_t mark) noexcept nogil:
        """Record that one more subscriber has an outstanding message."""
        cdef uint32_t place = mark & ((1 << SLOT_BITS) - 1)
        cdef Slot* slot
        if place >= self.slot_count:
            return
        slot = &self.slots[place]
        if slot.generation == mark >> SLOT_BITS and slot.remaining:
            self.complete = max(self.complete, slot.turn) if slot.remaining == 1 else self.complete
            self.one_less(place)

    cdef void missed(self, Sub* sub, uint32_t start, uint32_t stop) noexcept nogil:
        """Record that a subscriber lost some messages of its channel, so that outstanding ones stop waiting for it."""
        cdef uint32_t place
        cdef Slot* slot
        start = max(start, sub.floor)   # messages published before it subscribed do not wait for it
        if start >= stop:
            return
        for place in range(self.slot_count):
            slot = &self.slots[place]
            if slot.remaining and slot.channel == sub.channel and start <= slot.number < stop:
                slot.missed = True
                self.one_less(place)

    cdef void excuse(self, Sub* sub) noexcept nogil:
        """Record that a subscription is no longer in force, so that outstanding messages stop waiting for it."""
        self.missed(sub, sub.next, rl_load(&self.sent[sub.channel]) + 1)

    cdef void one_less(self, uint32_t place) noexcept nogil:
        cdef Slot* slot = &self.slots[place]
        slot.remaining -= 1
        if not slot.remaining:
            self.n.abandoned += slot.missed
            self.free_slot(place)

    cdef void give_up_before(self, uint64_t turn) noexcept nogil:
        """Stop waiting for the outstanding messages of earlier turns."""
        cdef uint32_t place
        for place in range(self.slot_count):
            if self.slots[place].remaining and self.slots[place].turn < turn:
                self.n.abandoned += 1
                self.free_slot(place)

    cdef void free_slot(self, uint32_t place) noexcept nogil:
        self.slots[place].remaining = 0
        self.slots[place].generation = (self.slots[place].generation + 1) & ((1 << (32 - SLOT_BITS)) - 1)
        self.free_slots[self.free_count] = place
        self.free_count += 1

    # --- 5. Publishing ------------------------------------------------------------------------------------------------

    cdef bint blocked(self) noexcept nogil:
        """Whether the next message must wait for an event that epoll will report."""
        cdef Publisher* publisher
        if self.slot_count and not self.free_count:
            return True
        publisher = &self.publishers[self.own[self.turn % self.own_count] % self.publisher_count]
        if publisher.kind == C_REDIS:
            return publisher.end - publisher.start >= OUT_ROOM
        if publisher.kind == C_API:
            return publisher.busy
        if publisher.batch:
            return publisher.batch >= self.batch_max or publisher.end >= BATCH_BYTES
        return publisher.busy and publisher.end > 0     # the last request is still being sent

    cdef int64_t message_due(self) noexcept nogil:
        """The scheduled time of the next message."""
        cdef uint64_t place = self.turn
        if self.round:
            place = self.turn // self.own_count * self.round + self.own[self.turn % self.own_count]
        return self.start_ns + <int64_t> (<double> place * self.interval_ns)

    cdef void publish(self, int64_t now) noexcept nogil:
        """Write the messages that are due to the publishers' buffers."""
        cdef int64_t due, sent
        cdef uint32_t number
        if self.slot_count and not self.free_count and now - self.progress_ns > STALL_NS:
            # A message was lost: continue without it.
            self.give_up_before(self.turn + 1)
            self.progress_ns = now
        if self.slot_count and now >= self.overtaken_due:
            # Later messages reached all subscribers at least so long ago: earlier ones are lost.
            self.give_up_before(self.overtaken)
            self.overtaken = self.complete
            self.overtaken_due = now + STALL_NS
        while not self.quota or self.turn < self.quota:
            if self.interval_ns > 0:
                due = self.message_due()
                if due > now:
                    break
            elif now < self.start_ns:
                break
            else:
                due = now
            if self.blocked():
                break
            number = self.own[self.turn % self.own_count]
            sent = rl_now() if self.kernel_times else due
            if not self.write_message(&self.publishers[number % self.publisher_count], number, sent):
                break
            self.turn += 1
            if now - due > LATE_NS:
                self.n.late += 1
            self.ledger.lags[rl_hdr_index((now - due) // 1000)] += 1

    cdef void send_waiting(self, Publisher* publisher) noexcept nogil:
        """Send the buffers, unless they must wait for an event that epoll will report."""
        if publisher.kind == C_BATCH:
            if publisher.batch and not publisher.busy:
                self.send_batch(publisher)
        elif publisher.start < publisher.end and not publisher.armed:
            self.publisher_flush(publisher)

    cdef bint write_message(self, Publisher* publisher, uint32_t number, int64_t due) noexcept nogil:
        """Append one message to a publisher's buffer; return false if it is full."""
        cdef Channel* channel = &self.channels[number]
        cdef size_t size = channel.head_size + STAMP_SIZE + self.tail.size
        cdef uint32_t mark = 0, place, sequence
        cdef char* out
        if publisher.kind == C_BATCH:
            # The first bytes are reserved for the request's head, which is written last.
            if publisher.end == 0:
                publisher.start = publisher.end = HEAD_ROOM
                size += 13
        if not publisher_room(publisher, size + 16):
            return False
        sequence = rl_load(&self.sent[number]) + 1
        if self.slot_count and channel.active:
            self.free_count -= 1
            place = self.free_slots[self.free_count]
            self.slots[place].remaining = channel.active
            self.slots[place].channel, self.slots[place].number = number, sequence
            self.slots[place].turn, self.slots[place].missed = self.turn, False
            mark = place | (self.slots[place].generation << SLOT_BITS)
        elif self.slot_count:
            mark = (1 << SLOT_BITS) - 1     # it has no subscriber
        if publisher.kind == C_BATCH:
            out = publisher.out + publisher.end
            if publisher.batch:
                out[0] = c','
                publisher.end += 1
            else:
                memcpy(out, b'{"messages":[', 13)
                publisher.end += 13
            publisher.batch += 1
        out = publisher.out + publisher.end
        memcpy(out, channel.head, channel.head_size)
        put_stamp(out + channel.head_size, number, sequence, due, mark)
        memcpy(out + channel.head_size + STAMP_SIZE, self.tail.at, self.tail.size)
        publisher.end += channel.head_size + STAMP_SIZE + self.tail.size
        if publisher.kind == C_API:
            publisher.busy = True
        # Before it is sent, so that no subscriber can receive it before it counts.
        rl_store(&self.sent[number], sequence)
        publisher.in_flight += 1
        self.n.published += 1
        self.n.expected += channel.active + channel.cut
        return True

    cdef void send_batch(self, Publisher* publisher) noexcept nogil:
        """Write the head before the collected messages, and send the request."""
        cdef char head[HEAD_ROOM]
        cdef size_t size = self.request.size
        memcpy(publisher.out + publisher.end, b"]}", 2)
        publisher.end += 2
        memcpy(head, self.request.at, size)
        size += rl_put_decimal(head + size, publisher.end - HEAD_ROOM)
        memcpy(head + size, b"\r\n\r\n", 4)
        size += 4
        publisher.start = HEAD_ROOM - size
        memcpy(publisher.out + publisher.start, head, size)
        publisher.busy = True
        publisher.batch = 0
        self.publisher_flush(publisher)

    cdef void publisher_flush(self, Publisher* publisher) noexcept nogil:
        cdef Py_ssize_t n
        cdef uint64_t tag = <uint64_t> (publisher - self.publishers + 1) << 32
        cdef int64_t now
        if publisher.kind != C_REDIS:
            now = rl_now()
            if publisher.fd >= 0 and not publisher.opening and now - publisher.used > IDLE_NS:
                publisher_end(publisher)
            publisher.used = now
            if publisher.fd < 0:
                publisher.fd = rl_connect(&self.publish_address, NULL)
                if publisher.fd < 0 or rl_epoll_set(self.epoll, True, publisher.fd, tag, True) < 0:
                    request_failed(publisher, &self.ledger, strerror(errno))
                    return
                publisher.opening = publisher.armed = True
        if publisher.fd < 0 or publisher.opening:
            return
        n = rl_send(publisher.fd, publisher.out + publisher.start, publisher.end - publisher.start)
        if n < 0 and not rl_would_block():
            self.publisher_failed(publisher, strerror(errno))
            return
        publisher.start += max(<Py_ssize_t> 0, n)
        if publisher.start == publisher.end:
            publisher.start = publisher.end = 0
        if publisher.armed != (publisher.end > 0):
            publisher.armed = publisher.end > 0
            rl_epoll_set(self.epoll, False, publisher.fd, tag, publisher.armed)

    cdef void publisher_event(self, Publisher* publisher, const rl_event* event) noexcept nogil:
        cdef Py_ssize_t n
        cdef int error
        cdef char* moved
        cdef const char* why
        if publisher.fd < 0:
            return
        if publisher.opening:
            error = rl_socket_error(publisher.fd)
            if error:
                self.publisher_failed(publisher, strerror(error))
                return
            publisher.opening = False
        if publisher.armed and rl_event_out(event):
            self.publisher_flush(publisher)
            if publisher.fd < 0:
                return
        if not rl_event_in(event):
            return
        if publisher.answers_room - publisher.answers_size < 65536:
            moved = <char*> realloc(publisher.answers, publisher.answers_room + 262144)
            if moved == NULL:
                return
            publisher.answers = moved
            publisher.answers_room += 262144
        n = rl_recv(publisher.fd, publisher.answers + publisher.answers_size,
                    publisher.answers_room - publisher.answers_size)
        if n <= 0:
            if n == 0 or not rl_would_block():
                self.publisher_failed(publisher, why_ended(n))
            return
        publisher.answers_size += n
        if publisher.kind == C_REDIS:
            redis_answers(publisher, &self.ledger)
        else:
            why = http_answer(publisher, &self.ledger)
            if why != NULL:
                self.publisher_failed(publisher, why)

    cdef void publisher_failed(self, Publisher* publisher, const char* why) noexcept nogil:
        cdef bint under_way = publisher.busy
        publisher_end(publisher)
        if publisher.kind != C_REDIS:
            # An idle connection that the server closed is replaced when it is needed.
            if under_way:
                request_failed(publisher, &self.ledger, why)
            return
        remark(&self.ledger, b"publish", why, strlen(why))
        self.n.publish_errors += publisher.in_flight
        publisher.in_flight = 0
        self.scheduled = False
        self.publisher_lost = True


cdef str header_lines(headers):
    for name, value in headers:
        if "\r" in name + value or "\n" in name + value:
            raise ValueError(f"the header {name!r} contains a line break")
    return "".join(f"{name}: {value}\r\n" for name, value in headers)


cdef Text text_of(bytes text):
    """Return the text as C sees it; valid while the object lives."""
    return Text(PyBytes_AS_STRING(text), len(text))


cdef void* zeroed(size_t count, size_t size) except NULL:
    cdef void* memory = calloc(max(count, <size_t> 1), size)
    if memory == NULL:
        raise MemoryError()
    return memory


cdef list take(uint64_t* counts):
    cdef list taken = []
    cdef int i
    for i in range(HDR_SIZE):
        if counts[i]:
            taken.append((i, counts[i]))
            counts[i] = 0
    return taken


cdef const char* why_ended(Py_ssize_t received) noexcept nogil:
    if received < 0:
        return strerror(errno)
    return b"the other end closed the connection"

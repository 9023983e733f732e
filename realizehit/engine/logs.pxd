# Logs: the position of a channel under a rule of history, and what happens to publications that follow it or do not.
#
# Called by dispatch for channels with a `Log` and for publications with a label, and by the methods of `Engine` that
# follow logs. A log's position is the offset of the last message that its subscribers were sent. The next one must
# follow it: a duplicate is dropped, and anything else is a hole, which is told to Python (`on_hole`); it and what comes
# after it is kept back until Python has read what is missing. Epochs are `EPOCH_SIZE` bytes. Messages given by Python
# are a list of (int, bytes), consecutive. Nothing here calls Python code. ValueError says that messages do not fit the
# log, with nothing changed; MemoryError leaves a log that asks again for what is missing.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from realizehit.engine.conn cimport (
    CHANNEL_HELD, CHANNEL_WILDCARD, FEATURE_BITS, FEATURE_MUTED, FEATURE_POSITIONS, FEATURE_REPLAYING, Channel, Conn,
)
from realizehit.engine.frames cimport FRAMING_RESP, Frame, frame_release
from realizehit.engine.labelled cimport (
    LABELLED, TO_ALL, TO_PLAIN, TO_POSITIONS, UNPOSITIONED, Publication, build_form, fan_out_forms,
)
from realizehit.engine.labels cimport EPOCH_SIZE, OFFSET_MAX, is_epoch, read_label
from realizehit.engine.pumping cimport Part, pump, pump_log
from realizehit.engine.replays cimport (
    drop_kept, log_free_unused, log_need, replay_new, set_features,
)
from realizehit.engine.ring cimport (
    LOG_HOLE, LOG_LIVE, LOG_NONE, LOG_OPENED, Log, ring_append, ring_clear, ring_first, ring_prepend,
)
from realizehit.engine.state cimport State
from realizehit.engine.text cimport is_utf8

cdef enum:
    KEPT_OVERHEAD = 64          # bytes that each publication that is kept back counts besides its own
    KEPT_PART = 4               # what is kept back for one log is at most a fourth of the bounds of a queue
    KEPT_TOTAL = 16 << 20       # bytes that are kept back for all logs
    TRIES = 2                   # reads without a new message, after which a publication that does not follow is dropped
    MOST_TRIES = 256            # the same, where each read had new messages


cdef inline bint is_known(const Log* log) noexcept nogil:
    """Whether there is a log whose position is known."""
    return log != NULL and (log.state == LOG_LIVE or log.state == LOG_HOLE)


# --- Publications -----------------------------------------------------------------------------------------------------

cdef inline bint read_publication(const Channel* channel, Publication* p, bytes raw) noexcept:
    """Read a publication as it came; false if it is malformed. A label that its channel cannot have is payload."""
    p.raw = PyBytes_AS_STRING(raw)
    p.size = PyBytes_GET_SIZE(raw)
    p.dotted = False
    p.epoch = NULL
    read_label(&p.label, p.raw, p.size)
    if channel.flags & CHANNEL_WILDCARD:
        return p.label.channel != 0
    if p.label.channel:
        p.label.size = p.label.trace = p.label.channel = 0
        p.label.epoch = NULL
    return True


cdef inline bint is_text(State* s, const Publication* p) noexcept nogil:
    return not s.check_utf8 or is_utf8(<const uint8_t*> p.raw, p.size)


cdef inline int keep_back(State* s, Log* log, bytes raw) except -1:
    """Keep a publication for later; return 0 if there is no room, and the repair will have to read it."""
    cdef uint64_t size = len(raw) + KEPT_OVERHEAD
    cdef list kept
    cdef uint64_t count = 0 if log.kept == NULL else len(<list> log.kept)
    # All of it is delivered at once, which must not make a live subscriber too slow.
    if (log.kept_bytes + size > max(s.max_queue_bytes // KEPT_PART, <uint64_t> 1024)
            or count >= max(s.max_queue_messages // KEPT_PART, <uint32_t> 1) or s.n.kept_bytes + size > KEPT_TOTAL):
        return 0
    if log.kept == NULL:
        kept = []
        Py_INCREF(kept)
        log.kept = <PyObject*> kept
    (<list> log.kept).append(raw)
    log.kept_bytes += size
    s.n.kept_bytes += size
    s.n.kept_back += 1
    return 1


cdef inline bint is_old(const Log* log, const char* epoch, uint64_t offset) noexcept nogil:
    """Whether a position is at or below that of the log."""
    return offset <= log.last and (memcmp(log.epoch, epoch, EPOCH_SIZE) == 0
                                   or memcmp(log.old_epoch, epoch, EPOCH_SIZE) == 0)


cdef inline int keep_or_lose(State* s, Log* log, const char* epoch, uint64_t offset, bytes raw) except -1:
    # What is not kept is remembered by the position of the last one, so that it is asked for.
    if not keep_back(s, log, raw):
        memcpy(log.lost_epoch, epoch, EPOCH_SIZE)
        log.lost = offset
    return 0


cdef inline bint open_hole(State* s, Channel* channel, const char* epoch, uint64_t offset) except -1:
    """Ask for what comes up to a position; false if that was asked for before, and is in no log."""
    cdef Log* log = channel.log
    if log.tries and log.hole == offset and memcmp(log.hole_epoch, epoch, EPOCH_SIZE) == 0:
        if (log.tries >= TRIES and log.last == log.hole_last) or log.tries >= MOST_TRIES:
            if memcmp(log.epoch, epoch, EPOCH_SIZE) == 0:
                s.n.malformed += 1      # it was not published by way of the log
            else:
                s.n.log_duplicates += 1     # of an earlier epoch, whose messages Python has read
            return False
    else:
        log.tries = 0
    (<list> s.pending).append(("hole", None, 0, (
        <object> channel.name, epoch[:EPOCH_SIZE].decode("ascii"), offset)))
    log.tries += 1
    log.hole = offset
    log.hole_last = log.last
    memcpy(log.hole_epoch, epoch, EPOCH_SIZE)
    log.state = LOG_HOLE
    return True


cdef inline int accept(State* s, Channel* channel, Publication* p, bint sendable) except -1:
    """Make a publication that follows the position the last one, and deliver it unless it cannot be sent."""
    cdef Log* log = channel.log
    cdef Frame* f = NULL
    cdef bint shown = p.label.offset <= log.shown
    log.touched = s.now
    log.owed = 0    # publications come in order: none of those is on its way any more
    p.epoch = log.epoch
    p.dotted = p.label.offset == log.dotted
    if sendable:
        f = build_form(s, LABELLED, channel, p)
    ring_append(&s.pool, &s.ring, log, f)
    try:
        if sendable:
            fan_out_forms(s, channel, p, f, TO_POSITIONS if shown else TO_ALL)
        if log.ahead:
            pump_log(s, log, NULL, True)
    finally:
        if f != NULL:
            frame_release(&s.pool, f)
    return 0


cdef enum:  # where a publication comes from
    ARRIVED = 0
    KEPT = 1                    # it was kept back
    KEPT_OPENED = 2             # it was kept back because the position was not known

cdef inline int publish_labelled(State* s, Channel* channel, bytes raw, int again) except -1:
    """Deliver a publication with a label or of a channel with a log; `again` says whether it was kept back."""
    cdef Publication p
    cdef Log* log = channel.log
    cdef bint text, same
    if channel.flags & CHANNEL_HELD:
        s.n.dropped_unclaimed += 1
        return 0
    if not read_publication(channel, &p, raw):
        s.n.malformed += 1
        return 0
    text = is_text(s, &p)
    if not text and not again:
        s.n.dropped_invalid_utf8 += 1
    if not again:
        channel.recent += text
    if log == NULL or log.state == LOG_NONE or p.label.epoch == NULL:
        if not text:
            return 0
        if log != NULL and log.state != LOG_NONE:
            if log.state == LOG_HOLE and keep_back(s, log, raw):
                return 0
            s.n.unpositioned += 1
        return fan_out_forms(s, channel, &p, NULL, UNPOSITIONED)
    if log.state == LOG_OPENED:
        # Plain subscribers need no position: those that are live go on, and `shown` remembers what they have.
        same = memcmp(log.shown_epoch, p.label.epoch, EPOCH_SIZE) == 0
        if same and p.label.offset <= log.shown:
            s.n.log_duplicates += 1
            return 0
        memcpy(log.shown_epoch, p.label.epoch, EPOCH_SIZE)
        log.shown = p.label.offset
        keep_or_lose(s, log, p.label.epoch, p.label.offset, raw)
        return fan_out_forms(s, channel, &p, NULL, TO_PLAIN) if text else 0
    if log.state == LOG_HOLE:
        keep_or_lose(s, log, p.label.epoch, p.label.offset, raw)
        return 0
    if is_old(log, p.label.epoch, p.label.offset):
        if log.shown < p.label.offset <= log.owed and memcmp(log.epoch, p.label.epoch, EPOCH_SIZE) == 0:
            # The log was read while it was on its way here; only those that begin in the log have it from there.
            log.shown = p.label.offset
            return fan_out_forms(s, channel, &p, NULL, TO_PLAIN) if text else 0
        s.n.log_duplicates += not again
        if again == KEPT_OPENED and text:
            # Those who had positions before, from an earlier log of the channel, did not get it yet.
            p.epoch = log.epoch
            p.dotted = True
            return fan_out_forms(s, channel, &p, NULL, TO_POSITIONS)
        return 0
    if p.label.offset == log.last + 1 and memcmp(log.epoch, p.label.epoch, EPOCH_SIZE) == 0:
        return accept(s, channel, &p, text)
    if open_hole(s, channel, p.label.epoch, p.label.offset):
        keep_or_lose(s, log, p.label.epoch, p.label.offset, raw)
    return 0


cdef inline list take_kept(State* s, Log* log):
    cdef list kept = [] if log.kept == NULL else (<list> log.kept).copy()
    drop_kept(s, log)
    return kept


cdef inline int resume_kept(State* s, Channel* channel, int again) except -1:
    """Handle what was kept back, now that the position is known; what does not follow is kept back again."""
    cdef Log* log = channel.log
    cdef bytes raw
    cdef char epoch[EPOCH_SIZE]
    cdef uint64_t lost = log.lost
    memcpy(epoch, log.lost_epoch, EPOCH_SIZE)
    log.lost = 0
    for raw in take_kept(s, log):
        publish_labelled(s, channel, raw, again)
    if lost and not is_old(log, epoch, lost):
        if log.state == LOG_LIVE:
            open_hole(s, channel, epoch, lost)
        if log.state == LOG_HOLE and not log.lost:
            memcpy(log.lost_epoch, epoch, EPOCH_SIZE)
            log.lost = lost
    return 0


# --- What Python says of logs -----------------------------------------------------------------------------------------

cdef inline bytes epoch_of(str epoch):
    cdef bytes text = epoch.encode("ascii", "replace")
    if len(text) != EPOCH_SIZE or not is_epoch(PyBytes_AS_STRING(text)):
        raise ValueError(f"an epoch has {EPOCH_SIZE} characters of a-z and 0-9: {epoch!r}")
    return text


cdef inline list messages_of(messages):
    """Copy messages into a list of (int, bytes), and check that their offsets are consecutive."""
    cdef list found = []
    cdef uint64_t offset, following = 0
    for number, payload in messages:
        offset = number
        if not 1 <= offset <= OFFSET_MAX or (following and offset != following):
            raise ValueError(f"offset {offset} does not follow {following - 1}" if following
                             else f"{offset} is no offset")
        following = offset + 1
        found.append((offset, <bytes?> payload))
    return found


cdef inline bytes with_position(const Channel* channel, bytes epoch, uint64_t offset, bytes payload):
    """A message of a log as a live publication has it."""
    if channel.flags & CHANNEL_WILDCARD:    # its payload begins with "@c="
        return b"@o=%b.%d&%b" % (epoch, offset, payload[1:])
    return b"@o=%b.%d?%b" % (epoch, offset, payload)


cdef inline bint read_message(State* s, const Channel* channel, Publication* p, bytes raw) noexcept:
    """Read what `with_position` made; false if it cannot be sent: it is malformed, or not UTF-8."""
    p.epoch = channel.log.epoch
    return read_publication(channel, p, raw) and is_text(s, p)


cdef inline int frame_of_message(State* s, Channel* channel, uint64_t offset, bytes payload,
                                 Frame** out) except -1:
    """Build the labelled WebSocket frame of a message of the log, held once; NULL for one that cannot be sent."""
    cdef Publication p
    cdef bytes raw = with_position(channel, channel.log.epoch[:EPOCH_SIZE], offset, payload)
    out[0] = NULL
    if read_message(s, channel, &p, raw):
        p.epoch = channel.log.epoch
        # A client that replays it may know only an earlier epoch, whose offsets go on in this one.
        p.dotted = channel.log.dotted != 0
        out[0] = build_form(s, LABELLED, channel, &p)
    return 0


cdef inline int end_replays(State* s, Log* log) except -1:
    """Make all replays of a log live subscriptions, whose numbering or log is gone."""
    cdef uint32_t number = log.replays, behind
    while number:
        behind = s.replays.items[number].behind
        s.replays.items[number].next = log.last + 1
        pump(s, number, NULL)
        number = behind
    return 0


cdef inline bint open_log(State* s, Channel* channel) except -1:
    cdef Log* log = log_need(s, channel)
    if log.state == LOG_NONE:
        log.state = LOG_OPENED
        log.tries = 0
        log.shown = log.lost = 0
        log.expires = log.ttl = 0
    return True


cdef inline bint set_log(State* s, Channel* channel, bytes epoch, uint64_t offset, list messages) except -1:
    cdef Log* log = channel.log
    cdef Frame* f
    cdef bytes payload
    cdef bint other
    cdef int again
    cdef uint64_t number
    if log == NULL or log.state == LOG_NONE:
        return False
    if offset > OFFSET_MAX:
        raise ValueError(f"{offset} is no offset")
    if messages and messages[-1][0] != offset:
        raise ValueError(f"the messages end at offset {messages[-1][0]}, not at {offset}")
    again = KEPT_OPENED if log.state == LOG_OPENED else KEPT
    other = log.epoch[0] != 0 and memcmp(log.epoch, PyBytes_AS_STRING(epoch), EPOCH_SIZE) != 0
    memcpy(log.epoch, PyBytes_AS_STRING(epoch), EPOCH_SIZE)
    ring_clear(&s.pool, &s.ring, log)
    log.last = offset - <uint64_t> len(messages)
    if other:
        log.dotted = offset + 1
        log.old_epoch[0] = 0
    if memcmp(log.shown_epoch, log.epoch, EPOCH_SIZE) != 0:
        log.shown = 0
    log.owed = offset if log.state == LOG_OPENED else 0
    log.state = LOG_LIVE
    try:
        for number, payload in messages:
            frame_of_message(s, channel, number, payload, &f)
            ring_append(&s.pool, &s.ring, log, f)
            if f != NULL:
                frame_release(&s.pool, f)
    except BaseException:
        ring_clear(&s.pool, &s.ring, log)
        log.last = offset
        raise
    if other:
        end_replays(s, log)
    else:
        pump_log(s, log, NULL, False)
    resume_kept(s, channel, again)
    return True


cdef inline bint repair_log(State* s, Channel* channel, bytes epoch, list messages) except -1:
    cdef Log* log = channel.log
    cdef Publication p
    cdef bytes payload, raw
    cdef uint64_t offset
    cdef bint sendable
    if not is_known(log):
        return False
    if messages and <uint64_t> messages[0][0] > log.last + 1:
        raise ValueError(f"the messages begin at offset {messages[0][0]}, and the position is {log.last}")
    if memcmp(log.epoch, PyBytes_AS_STRING(epoch), EPOCH_SIZE) != 0:
        memcpy(log.old_epoch, log.epoch, EPOCH_SIZE)
        memcpy(log.epoch, PyBytes_AS_STRING(epoch), EPOCH_SIZE)
        log.dotted = log.last + 1
    for offset, payload in messages:
        if offset > log.last:
            raw = with_position(channel, epoch, offset, payload)
            sendable = read_message(s, channel, &p, raw)
            p.label.offset = offset
            s.n.messages += 1
            accept(s, channel, &p, sendable)
    log.state = LOG_LIVE
    resume_kept(s, channel, KEPT)
    return True


cdef inline bint fill_log(State* s, Channel* channel, list messages) except -1:
    cdef Log* log = channel.log
    cdef Frame* f
    cdef bint fits
    if not is_known(log) or not messages or <uint64_t> messages[-1][0] + 1 != ring_first(log):
        return False
    for offset, payload in reversed(messages):
        if s.ring.bytes + <uint64_t> len(payload) > s.ring.limit:
            break
        frame_of_message(s, channel, offset, payload, &f)
        fits = ring_prepend(&s.pool, &s.ring, log, f)
        if f != NULL:
            frame_release(&s.pool, f)
        if not fits:
            break
    pump_log(s, log, NULL, False)
    return True


cdef inline bint close_log(State* s, Channel* channel) except -1:
    cdef Log* log = channel.log
    cdef bytes raw
    cdef list kept
    if log == NULL or log.state == LOG_NONE:
        return False
    kept = take_kept(s, log) if log.state == LOG_HOLE else []
    drop_kept(s, log)
    ring_clear(&s.pool, &s.ring, log)
    log.state = LOG_NONE
    end_replays(s, log)
    for raw in kept:
        publish_labelled(s, channel, raw, KEPT)
    log_free_unused(s, channel)
    return True


# --- Subscribers with features ----------------------------------------------------------------------------------------

cdef inline bint tell_positions(State* s, Conn* c, Channel* channel, uint32_t position, bint live,
                                uint64_t after) except -1:
    cdef Log* log = channel.log
    cdef uint32_t number
    if after > OFFSET_MAX:
        raise ValueError(f"{after} is no offset")
    if not is_known(log) or c.framing == FRAMING_RESP:
        return False
    if live or after == log.last:
        set_features(s, channel, position, FEATURE_POSITIONS)
        return True
    number = replay_new(s, c, channel, after + 1)
    set_features(s, channel, position, FEATURE_POSITIONS | FEATURE_REPLAYING | number << FEATURE_BITS)
    pump(s, number, NULL)
    return True


cdef inline uint64_t offset_reached(State* s, const Channel* channel, uint32_t position) noexcept nogil:
    """The offset of the last message that a subscriber with positions was sent."""
    cdef uint32_t features = channel.subs[position].features
    if features & FEATURE_REPLAYING:
        return s.replays.items[features >> FEATURE_BITS].next - 1
    return channel.log.last


cdef inline bint end_replay(State* s, Channel* channel, uint32_t position, uint64_t after) except -1:
    cdef uint32_t features = channel.subs[position].features
    if after > OFFSET_MAX:
        raise ValueError(f"{after} is no offset")
    if not features & FEATURE_REPLAYING:
        return False
    s.replays.items[features >> FEATURE_BITS].next = after + 1
    pump(s, features >> FEATURE_BITS, NULL)
    return True


cdef inline bint end_muting(State* s, Channel* channel, uint32_t position) noexcept:
    cdef uint32_t features = channel.subs[position].features
    if not features & FEATURE_MUTED:
        return False
    set_features(s, channel, position, features & ~<uint32_t> FEATURE_MUTED)
    log_free_unused(s, channel)
    return True


cdef inline int send_part(State* s, Channel* channel, list messages) except -1:
    """Send messages to the replays that starve for them."""
    cdef Log* log = channel.log
    cdef Part part
    cdef uint32_t i
    if not is_known(log) or not log.replays or not messages:
        return 0
    part.count = <uint32_t> len(messages)
    part.first = messages[0][0]
    part.frames = <Frame**> calloc(part.count, sizeof(Frame*))
    if part.frames == NULL:
        raise MemoryError()
    try:
        for i in range(part.count):
            offset, payload = messages[i]
            frame_of_message(s, channel, offset, payload, &part.frames[i])
        pump_log(s, log, &part, False)
    finally:
        for i in range(part.count):
            if part.frames[i] != NULL:
                frame_release(&s.pool, part.frames[i])
        free(part.frames)
    return 0

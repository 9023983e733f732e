# A fleet's connections, their subscriptions, and the channels that these are of.
# Plain structs for `_load.pyx`.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                      # a connection's life
    IDLE                        # not wanted
    PLANNED                     # waits for its turn to connect
    CONNECTING
    HANDSHAKING
    JOINING                     # waits for the replies to its first subscriptions
    OPEN

cdef enum:                      # a subscription's
    OUT
    ASKED
    ACTIVE
    LEAVING

cdef enum:                      # why a connection ends
    BY_US
    BY_CLOSE_FRAME
    BY_PEER
    BY_ERROR

cdef struct Text:
    const char* at
    size_t size

cdef struct Channel:
    char id[8]
    const char* pattern         # its JSON text
    size_t pattern_size
    const char* head            # what comes before the stamp in a publication
    size_t head_size
    uint32_t active             # subscriptions in force in this fleet
    uint32_t cut                # those that were, until the server ended their connection

cdef struct Sub:
    uint32_t channel
    uint32_t next               # the sequence number that must come; 0 before the first
    uint32_t floor              # the first number that must not be missed; LEAVING: the first that nobody waits for
    uint8_t state
    uint8_t cut                 # it was in force when the server ended its connection: what it misses is lost

cdef struct Conn:
    int fd
    uint8_t state
    bint armed                  # asks epoll for writability
    uint32_t first              # its subscriptions: `count` from `first`, by channel
    uint32_t count
    uint32_t hint               # the one that got the last message
    uint32_t waiting            # replies to its first subscriptions
    uint32_t source             # source addresses tried
    int64_t began
    char* partial               # bytes of a frame that is not whole yet
    size_t partial_size
    char* out                   # bytes that the socket did not take
    size_t out_start
    size_t out_end

cdef struct Slot:               # one outstanding message
    uint32_t remaining          # subscribers that have yet to get it
    uint32_t generation
    uint32_t channel
    uint32_t number             # in its channel
    uint64_t turn               # of the schedule
    bint missed                 # it is lost at a subscriber

cdef struct Gone:               # a subscription that was left and will come back
    uint32_t conn
    uint32_t sub
    uint32_t count

# The connections of a fleet, their subscriptions and channels.
# Plain structs for `_load.pyx`.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                      # a connection's life
    IDLE                        # not wanted
    PLANNED                     # waits to be connected
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
    const char* head            # the part of a publication before the stamp
    size_t head_size
    uint32_t active             # subscriptions in force in this fleet
    uint32_t cut                # subscriptions whose connection the server ended

cdef struct Sub:
    uint32_t channel
    uint32_t next               # the next sequence number expected; 0 before the first
    uint32_t floor              # the first number that must arrive; LEAVING: the first that is not expected
    uint8_t state
    uint8_t cut                 # the server ended its connection while it was in force: missing messages are lost
    uint8_t unheard             # LEAVING or cut, and nothing had come: messages before `next` may still do

cdef struct Conn:
    int fd
    uint8_t state
    bint armed                  # asks epoll for writability
    uint32_t first              # its subscriptions: `count` from `first`, by channel
    uint32_t count
    uint32_t hint               # the one that received the last message
    uint32_t waiting            # replies to its first subscriptions
    uint32_t source             # source addresses tried
    int64_t began
    char* partial               # bytes of an incomplete frame
    size_t partial_size
    char* out                   # bytes that the socket did not accept
    size_t out_start
    size_t out_end

cdef struct Slot:               # one outstanding message
    uint32_t remaining          # subscribers that have not received it yet
    uint32_t generation
    uint32_t channel
    uint32_t number             # in its channel
    uint64_t turn               # of the schedule
    bint missed                 # it is lost at a subscriber

cdef struct Gone:               # a subscription that was left and will be made again
    uint32_t conn
    uint32_t sub
    uint32_t count

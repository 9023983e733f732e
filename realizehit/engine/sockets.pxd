# System calls: epoll, send and receive, and replacements for platforms without epoll.
# Inline C for `_fanout.pyx`. Each function returns -1 with errno set where it fails, as the system call does.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <poll.h>
    #include <netdb.h>
    #include <arpa/inet.h>
    #include <stdint.h>
    #include <unistd.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/ioctl.h>
    #include <sys/resource.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #ifdef __linux__
    #include <linux/sockios.h>
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0   /* macOS: SIGPIPE is ignored by Python already */
    #endif
    #if defined(__linux__) && !defined(REALIZEHIT_NO_EPOLL)
    #define RH_HAVE_EPOLL 1
    #include <sys/epoll.h>
    typedef struct epoll_event rh_event;
    static int rh_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
    static int rh_epoll_set(int ep, int op, int fd, uint64_t tag, int out) {
        struct epoll_event event;
        event.events = EPOLLIN | (out ? EPOLLOUT : 0);
        event.data.u64 = tag;
        return epoll_ctl(ep, op, fd, &event);
    }
    static int rh_epoll_add(int ep, int fd, uint64_t tag) { return rh_epoll_set(ep, EPOLL_CTL_ADD, fd, tag, 0); }
    static int rh_epoll_arm(int ep, int fd, uint64_t tag, int out) {
        return rh_epoll_set(ep, EPOLL_CTL_MOD, fd, tag, out);
    }
    static int rh_epoll_drop(int ep, int fd) { return epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL); }
    static int rh_epoll_wait(int ep, rh_event *events, int room) { return epoll_wait(ep, events, room, 0); }
    static int rh_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }
    static uint64_t rh_event_tag(const rh_event *event) { return event->data.u64; }
    static int rh_event_in(const rh_event *event) { return (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0; }
    static int rh_event_out(const rh_event *event) { return (event->events & EPOLLOUT) != 0; }
    #else
    #define RH_HAVE_EPOLL 0
    typedef struct { uint64_t tag; } rh_event;
    static int rh_epoll_create(void) { errno = ENOSYS; return -1; }
    static int rh_epoll_add(int ep, int fd, uint64_t tag) { errno = ENOSYS; return -1; }
    static int rh_epoll_arm(int ep, int fd, uint64_t tag, int out) { errno = ENOSYS; return -1; }
    static int rh_epoll_drop(int ep, int fd) { errno = ENOSYS; return -1; }
    static int rh_epoll_wait(int ep, rh_event *events, int room) { return 0; }
    static int rh_accept(int fd) { errno = ENOSYS; return -1; }
    static uint64_t rh_event_tag(const rh_event *event) { return event->tag; }
    static int rh_event_in(const rh_event *event) { return 0; }
    static int rh_event_out(const rh_event *event) { return 0; }
    #endif
    static ssize_t rh_send(int fd, const void *data, size_t size) {
        ssize_t n;
        do n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        return n;
    }
    static ssize_t rh_send_vector(int fd, struct iovec *parts, int count) {
        struct msghdr message = {0};
        message.msg_iov = parts;
        message.msg_iovlen = count;
        ssize_t n;
        do n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        return n;
    }
    static ssize_t rh_recv(int fd, void *data, size_t room) {
        ssize_t n;
        do n = recv(fd, data, room, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        return n;
    }
    static uint32_t rh_unsent(int fd) {
        int size = 0;
    #ifdef SIOCOUTQ
        if (ioctl(fd, SIOCOUTQ, &size) < 0 || size < 0) size = 0;
    #endif
        return (uint32_t) size;
    }
    static int rh_has_sent(int fd) {
        int size = 0;
    #ifdef SIOCOUTQNSD
        if (ioctl(fd, SIOCOUTQNSD, &size) < 0) size = 0;
    #endif
        return size == 0 && rh_unsent(fd) <= 4096;
    }
    static void rh_user_timeout(int fd, uint32_t milliseconds) {
    #ifdef TCP_USER_TIMEOUT     /* Linux */
        (void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof(milliseconds));
    #endif
    }
    static void rh_no_delay(int fd) {
        int on = 1;
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    /* Whether `accept` failed for want of a descriptor or of memory, so that the next call would fail too. */
    static int rh_is_exhausted(void) {
        return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    }
    static int rh_peer(int fd, char *out, int room) {
        struct sockaddr_storage address;
        socklen_t size = sizeof(address);
        if (getpeername(fd, (struct sockaddr *) &address, &size) < 0) return -1;
        if (address.ss_family == AF_INET)   /* the same text in a fraction of the time */
            return inet_ntop(AF_INET, &((struct sockaddr_in *) &address)->sin_addr, out, room) == NULL ? -1 : 0;
        return getnameinfo((struct sockaddr *) &address, size, out, room, NULL, 0, NI_NUMERICHOST) == 0 ? 0 : -1;
    }
    static int rh_descriptors(void) {
        struct rlimit limit;
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT32_MAX) return INT32_MAX;
        return (int) limit.rlim_cur;
    }
    static int rh_duplicate(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }
    static int rh_is_quiet(int fd) {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        return poll(&one, 1, 0) == 0;
    }
    static int rh_would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS; }
    static void rh_half_close(int fd) { shutdown(fd, SHUT_WR); }
    static void rh_close(int fd) { close(fd); }
    """
    const bint RH_HAVE_EPOLL
    ctypedef struct rh_event:
        pass
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    int rh_epoll_create() noexcept nogil
    int rh_epoll_add(int ep, int fd, uint64_t tag) noexcept nogil
    int rh_epoll_arm(int ep, int fd, uint64_t tag, bint out) noexcept nogil
    int rh_epoll_drop(int ep, int fd) noexcept nogil
    int rh_epoll_wait(int ep, rh_event* events, int room) noexcept nogil
    int rh_accept(int fd) noexcept nogil        # a connection, non-blocking
    void rh_no_delay(int fd) noexcept nogil
    bint rh_is_exhausted() noexcept nogil
    int rh_peer(int fd, char* out, int room) noexcept nogil     # writes the numeric address of the peer
    int rh_descriptors() noexcept nogil         # how many this process may have
    int rh_duplicate(int fd) noexcept nogil
    uint64_t rh_event_tag(const rh_event* event) noexcept nogil
    bint rh_event_in(const rh_event* event) noexcept nogil
    bint rh_event_out(const rh_event* event) noexcept nogil
    Py_ssize_t rh_send(int fd, const void* data, size_t size) noexcept nogil
    Py_ssize_t rh_send_vector(int fd, iovec* parts, int count) noexcept nogil
    Py_ssize_t rh_recv(int fd, void* data, size_t room) noexcept nogil
    uint32_t rh_unsent(int fd) noexcept nogil   # bytes that the peer has yet to acknowledge; 0 where nobody knows
    # Whether all is on its way to the peer; with little unacknowledged, so that nothing waits before the socket either.
    bint rh_has_sent(int fd) noexcept nogil
    # After so long without an acknowledgement of what was sent the system ends the connection; where it can.
    void rh_user_timeout(int fd, uint32_t milliseconds) noexcept nogil
    bint rh_is_quiet(int fd) noexcept nogil     # whether there is nothing to read from a descriptor
    bint rh_would_block() noexcept nogil
    void rh_half_close(int fd) noexcept nogil
    void rh_close(int fd) noexcept nogil

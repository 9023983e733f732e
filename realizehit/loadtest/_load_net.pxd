# System calls of the load client: connecting sockets, epoll with a fine timeout.
# Inline C for `_load.pyx`. Each function returns -1 and sets errno if it fails, like the system call.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    typedef struct { struct sockaddr_storage storage; socklen_t size; } rl_addr;
    #if defined(__linux__) && !defined(REALIZEHIT_NO_EPOLL)
    #define RL_HAVE_EPOLL 1
    #include <linux/net_tstamp.h>
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #if defined(SO_TIMESTAMPING) && defined(SCM_TIMESTAMPING)
    #define RL_HAVE_TIMES 1
    #endif
    typedef struct epoll_event rl_event;
    static inline int rl_epoll_create(void) { return epoll_create1(EPOLL_CLOEXEC); }
    static inline int rl_epoll_set(int ep, int add, int fd, uint64_t tag, int out) {
        struct epoll_event event;
        event.events = EPOLLIN | (out ? EPOLLOUT : 0);
        event.data.u64 = tag;
        return epoll_ctl(ep, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
    }
    static inline int rl_epoll_wait(int ep, rl_event *events, int room, int64_t nanoseconds) {
    #ifdef SYS_epoll_pwait2
        /* epoll_wait counts in milliseconds, too coarse for a schedule. Linux has had this one since 5.11. */
        static int missing = 0;
        if (nanoseconds > 0 && !missing) {
            struct timespec t = { nanoseconds / 1000000000, nanoseconds % 1000000000 };
            int n = (int) syscall(SYS_epoll_pwait2, ep, events, room, &t, NULL, 0);
            if (n >= 0 || errno != ENOSYS) return n;
            missing = 1;
        }
    #endif
        return epoll_wait(ep, events, room, (int) (nanoseconds / 1000000));
    }
    static inline uint64_t rl_event_tag(const rl_event *e) { return e->data.u64; }
    static inline int rl_event_in(const rl_event *e) { return (e->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0; }
    static inline int rl_event_out(const rl_event *e) { return (e->events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0; }
    #else
    #define RL_HAVE_EPOLL 0
    typedef struct { uint64_t tag; } rl_event;
    static inline int rl_epoll_create(void) { errno = ENOSYS; return -1; }
    static inline int rl_epoll_set(int ep, int add, int fd, uint64_t tag, int out) { errno = ENOSYS; return -1; }
    static inline int rl_epoll_wait(int ep, rl_event *events, int room, int64_t ns) { errno = ENOSYS; return -1; }
    static inline uint64_t rl_event_tag(const rl_event *e) { return e->tag; }
    static inline int rl_event_in(const rl_event *e) { return 0; }
    static inline int rl_event_out(const rl_event *e) { return 0; }
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    /* From a numeric address; 0 where the text is none. */
    static inline int rl_addr_set(rl_addr *a, const char *host, int port) {
        struct sockaddr_in *v4 = (struct sockaddr_in *) &a->storage;
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *) &a->storage;
        memset(a, 0, sizeof *a);
        if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
            v4->sin_family = AF_INET; v4->sin_port = htons((uint16_t) port); a->size = sizeof *v4;
        } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
            v6->sin6_family = AF_INET6; v6->sin6_port = htons((uint16_t) port); a->size = sizeof *v6;
        } else return 0;
        return 1;
    }
    /* A non-blocking connection attempt from `source`, or from wherever the system likes where that is NULL. */
    static inline int rl_connect(const rl_addr *to, const rl_addr *source) {
        int one = 1, flags, saved;
        int fd = socket(to->storage.ss_family, SOCK_STREAM, 0);
        if (fd < 0) return -1;
        flags = fcntl(fd, F_GETFL);
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) goto failed;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (source != NULL) {
    #ifdef IP_BIND_ADDRESS_NO_PORT
            /* The port is chosen at connect, when the other end is known: each pair of addresses has all ports. */
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    #endif
            if (bind(fd, (const struct sockaddr *) &source->storage, source->size) < 0) goto failed;
        }
        if (connect(fd, (const struct sockaddr *) &to->storage, to->size) == 0 || errno == EINPROGRESS) return fd;
    failed:
        saved = errno; close(fd); errno = saved;
        return -1;
    }
    static inline int rl_socket_error(int fd) {
        int error = 0; socklen_t size = sizeof error;
        return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
    }
    static inline ssize_t rl_send(int fd, const void *data, size_t size) {
        ssize_t n;
        do n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        return n;
    }
    static inline ssize_t rl_recv(int fd, void *data, size_t room) {
        ssize_t n;
        do n = recv(fd, data, room, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        return n;
    }
    /* CLOCK_REALTIME less CLOCK_MONOTONIC, in nanoseconds. */
    static inline int64_t rl_epoch(void) {
        struct timespec real, mono;
        clock_gettime(CLOCK_REALTIME, &real);
        clock_gettime(CLOCK_MONOTONIC, &mono);
        return (int64_t) (real.tv_sec - mono.tv_sec) * 1000000000 + (real.tv_nsec - mono.tv_nsec);
    }
    #ifdef RL_HAVE_TIMES
    static inline int rl_note_times(int fd) {
        int what = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
        return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &what, sizeof what);
    }
    /* As rl_recv; `at` is when the kernel got the last of these bytes, by CLOCK_REALTIME; 0 where it does not say. */
    static inline ssize_t rl_recv_at(int fd, void *data, size_t room, int64_t *at) {
        char control[256];
        struct iovec part = { data, room };
        struct msghdr message;
        struct cmsghdr *c;
        ssize_t n;
        memset(&message, 0, sizeof message);
        message.msg_iov = &part; message.msg_iovlen = 1;
        message.msg_control = control; message.msg_controllen = sizeof control;
        do n = recvmsg(fd, &message, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
        *at = 0;
        for (c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL; c != NULL; c = CMSG_NXTHDR(&message, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPING) {
                struct timespec t;
                memcpy(&t, CMSG_DATA(c), sizeof t);
                *at = (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
            }
        return n;
    }
    #else
    static inline int rl_note_times(int fd) { errno = ENOSYS; return -1; }
    static inline ssize_t rl_recv_at(int fd, void *data, size_t room, int64_t *at) {
        *at = 0;
        return rl_recv(fd, data, room);
    }
    #endif
    static inline int rl_would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }
    static inline int rl_no_port(void) { return errno == EADDRNOTAVAIL || errno == EADDRINUSE; }
    static inline void rl_close(int fd) { close(fd); }
    static inline int64_t rl_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
    }
    /* `sent` is shared between processes: each count has one writer. */
    static inline uint32_t rl_load(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void rl_store(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline const char *rl_find(const char *p, size_t size, const char *what) {
        size_t n = strlen(what);
        for (size_t i = 0; i + n <= size; i++)
            if (p[i] == what[0] && memcmp(p + i, what, n) == 0) return p + i;
        return NULL;
    }
    """
    const bint RL_HAVE_EPOLL
    ctypedef struct rl_event:
        pass
    ctypedef struct rl_addr:
        pass
    int rl_epoll_create() noexcept nogil
    int rl_epoll_set(int ep, bint add, int fd, uint64_t tag, bint out) noexcept nogil
    int rl_epoll_wait(int ep, rl_event* events, int room, int64_t nanoseconds) noexcept nogil
    uint64_t rl_event_tag(const rl_event* event) noexcept nogil
    bint rl_event_in(const rl_event* event) noexcept nogil
    bint rl_event_out(const rl_event* event) noexcept nogil
    bint rl_addr_set(rl_addr* a, const char* host, int port) noexcept nogil
    int rl_connect(const rl_addr* to, const rl_addr* source) noexcept nogil
    int rl_socket_error(int fd) noexcept nogil
    Py_ssize_t rl_send(int fd, const void* data, size_t size) noexcept nogil
    Py_ssize_t rl_recv(int fd, void* data, size_t room) noexcept nogil
    int64_t rl_epoch() noexcept nogil
    int rl_note_times(int fd) noexcept nogil
    Py_ssize_t rl_recv_at(int fd, void* data, size_t room, int64_t* at) noexcept nogil
    bint rl_would_block() noexcept nogil
    bint rl_no_port() noexcept nogil
    void rl_close(int fd) noexcept nogil
    int64_t rl_now() noexcept nogil
    uint32_t rl_load(const uint32_t* p) noexcept nogil
    void rl_store(uint32_t* p, uint32_t value) noexcept nogil
    const char* rl_find(const char* p, size_t size, const char* what) noexcept nogil

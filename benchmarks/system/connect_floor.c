/* The floor that connects are measured against: accept, answer a handshake, answer one `sub`.
 *
 * One epoll set, clients accepted in batches with `accept4`, a real 101 with the digest of the client's key, and one fixed
 * frame for whatever frame the client sends then. Nothing is checked that could be left out, and nothing is kept of a
 * client but its state, so no server that serves one client at a time can be much cheaper.
 *
 * Called with the core to stay on (-1 for any) and the text of the reply. Prints its port as JSON, ends with its input.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, BACKLOG = 4096, ROOM = 8192, CLIENTS = 1 << 16 };
enum state { NEW, UPGRADED };

static const char GUID[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
static const char BEFORE[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: ";
static unsigned char states[CLIENTS]; /* by descriptor */
static char reply[ROOM];
static size_t reply_size;

static uint32_t rotated(uint32_t value, int by) { return value << by | value >> (32 - by); }

/* One step of SHA-1 (FIPS 180-4, 6.1.2) over a block of 64 bytes. */
static void sha1_block(uint32_t h[5], const unsigned char *block) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int t = 0; t < 16; t++) {
        uint32_t word;
        memcpy(&word, block + 4 * t, 4);
        w[t] = ntohl(word);
    }
    for (int t = 16; t < 80; t++) w[t] = rotated(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    for (int t = 0; t < 80; t++) {
        uint32_t f, k;
        if (t < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (t < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (t < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotated(a, 5) + f + e + k + w[t];
        e = d, d = c, c = rotated(b, 30), b = a, a = next;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* Write the 28 characters of Sec-WebSocket-Accept for a key of 24 (RFC 6455, 4.2.2): 60 bytes, so two blocks. */
static void accept_of(const char *key, char *out) {
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char text[128] = {0}, digest[21] = {0};
    memcpy(text, key, 24);
    memcpy(text + 24, GUID, 36);
    text[60] = 0x80;
    text[126] = 60 * 8 >> 8;
    text[127] = 60 * 8 & 255;
    sha1_block(h, text);
    sha1_block(h, text + 64);
    for (int i = 0; i < 5; i++) {
        uint32_t word = htonl(h[i]);
        memcpy(digest + 4 * i, &word, 4);
    }
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t) digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) out[4 * i + j] = DIGITS[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
}

/* Answer a handshake; 0 if it is not one. The whole head comes in one piece on loopback. */
static int upgrade(int fd, const char *head, size_t size) {
    char out[256];
    const char *key = memmem(head, size, "Sec-WebSocket-Key: ", 19);
    if (size < 4 || memcmp(head + size - 4, "\r\n\r\n", 4) != 0) return 0;
    if (key == NULL || (size_t) (key + 19 + 24 - head) > size) return 0;
    size_t n = sizeof BEFORE - 1;
    memcpy(out, BEFORE, n);
    accept_of(key + 19, out + n);
    memcpy(out + n + 28, "\r\n\r\n", 4);
    return send(fd, out, n + 32, MSG_NOSIGNAL) == (ssize_t) n + 32;
}

static void accept_all(int epoll, int listener) {
    for (;;) {
        int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= CLIENTS || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        states[fd] = NEW;
    }
}

static void serve(int fd) {
    static char in[ROOM];
    ssize_t got = recv(fd, in, sizeof in, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    int good = 0;
    if (got > 0 && states[fd] == NEW) good = upgrade(fd, in, (size_t) got);
    /* 0x88 is the close frame: a client says it before it leaves. */
    else if (got > 0 && (unsigned char) in[0] != 0x88) good = send(fd, reply, reply_size, MSG_NOSIGNAL) == (ssize_t) reply_size;
    states[fd] = UPGRADED;
    if (!good) close(fd);
}

static int frame(const char *text) {
    size_t size = strlen(text);
    if (size > 125) return 0;
    reply[0] = (char) 0x81;
    reply[1] = (char) size;
    memcpy(reply + 2, text, size);
    reply_size = size + 2;
    return 1;
}

int main(int count, char **words) {
    if (count != 3 || !frame(words[2])) return 2;
    int core = atoi(words[1]);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    if (core >= 0) {
        CPU_SET(core, &cores);
        if (sched_setaffinity(0, sizeof cores, &cores) < 0) return 1;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int epoll = epoll_create1(EPOLL_CLOEXEC), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof place;
    if (bind(listener, (struct sockaddr *) &place, size) < 0 || listen(listener, BACKLOG) < 0) return 1;
    getsockname(listener, (struct sockaddr *) &place, &size);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.fd = listener}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events);
    events[0].data.fd = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, events);
    printf("{\"port\": %d}\n", ntohs(place.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == 0) return 0;
            if (fd == listener) accept_all(epoll, listener);
            else serve(fd);
        }
    }
}

/* The floor that the server is measured against: a plain `send` loop.
 *
 * Python has accepted the connections, answered their handshakes and subscribed to the channel. The measured part is here,
 * in C alone: read a publication from the broker's connection, build its frame, send it to every socket, one `send` each.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

enum { ROOM = 1 << 16 };

/* Read `$<size>\r\n<bytes>\r\n` at `*at`. Returns its size and moves `*at` behind it, or -1 if it is incomplete. */
static long bulk(const char *in, long filled, long *at, long *start) {
    const char *end = memchr(in + *at, '\n', filled - *at);
    if (end == NULL) return -1;
    long size = strtol(in + *at + 1, NULL, 10);
    *start = end + 1 - in;
    if (*start + size + 2 > filled) return -1;
    *at = *start + size + 2;
    return size;
}

static int send_to_all(const int *sockets, int count, const char *id, const char *payload, long size) {
    static char frame[ROOM];
    long length = 9 + size, n = 2;
    frame[0] = (char) 0x81;
    frame[1] = (char) length;
    if (length > 125) {
        frame[1] = 126;
        frame[2] = (char) (length >> 8);
        frame[3] = (char) length;
        n = 4;
    }
    memcpy(frame + n, id, 8);
    frame[n + 8] = '?';
    memcpy(frame + n + 9, payload, size);
    for (int i = 0; i < count; i++) {
        if (send(sockets[i], frame, n + length, MSG_NOSIGNAL) != n + length) return -1;
    }
    return 0;
}

/* Serve until the broker or a client goes away. The sockets are blocking: a slow client makes the loop
 * wait, which costs no CPU. */
void floor_run(int broker, const int *sockets, int count, const char *id) {
    static char in[ROOM];
    long filled = 0;
    for (;;) {
        ssize_t got = read(broker, in + filled, ROOM - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return;
        filled += got;
        long done = 0;
        for (;;) {
            /* *3, "message", the channel, the payload */
            long at = done + 4, start = 0, size = -1;
            if (filled - done < 4 || bulk(in, filled, &at, &start) < 0 || bulk(in, filled, &at, &start) < 0) break;
            size = bulk(in, filled, &at, &start);
            if (size < 0) break;
            if (send_to_all(sockets, count, id, in + start, size) < 0) return;
            done = at;
        }
        memmove(in, in + done, filled - done);
        filled -= done;
    }
}
